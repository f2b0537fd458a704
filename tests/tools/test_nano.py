"""The shipped model: its size and format, and that it quotes, counts, judges and stops, on generated held-out text."""

import hashlib
import random
from pathlib import Path

import pytest
import torch

import expctr
from expctr.data.batches import Nouns
from expctr.llm.prompts import PromptOptions, Prompts
from tools.nano import titles
from tools.nano.check import movielens, quality
from tools.nano.inference import Nano
from tools.nano.opinions import DOMAINS, YES, opinion
from tools.nano.rows import Steps
from tools.nano.titles import history

FOLDER = Path(expctr.__file__).parent / "nano"
WORD_LISTS = {
    "WORDS": (880, "2b7b1baca68226f0"),
    "NAMES": (81, "a017023fb646d571"),
    "SMALL": (30, "2849e4ab289b8565"),
    "SUFFIXES": (25, "dbfd3333b36286a9"),
    "ONSETS": (44, "6761d35b6282b522"),
    "NUCLEI": (34, "5415d7517f9f9958"),
    "CODAS": (48, "16d5675cc0a6cf03"),
}
"""Size and digest of each."""
HISTORIES = "bc61fecc83967785"


@pytest.fixture(scope="module")
def nano() -> Nano:
    torch.manual_seed(0)
    return Nano(FOLDER)


def digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def test_the_word_lists_are_those_that_the_shipped_model_was_made_with() -> None:
    """Every draw depends on them and on their order."""
    lists = {name: getattr(titles, name) for name in WORD_LISTS}
    assert {name: (len(words), digest(words)) for name, words in lists.items()} == WORD_LISTS
    rng = random.Random(0)
    samples = [history(rng) for _ in range(100)]
    assert digest([(one.target, one.liked, one.disliked) for one in samples]) == HISTORIES


def test_ratings_are_read_with_histories_in_the_order_of_time(tmp_path: Path) -> None:
    """User 2 has too few ratings; user 1 has six, given out of order."""
    rows = [(1, item, 5 if item % 2 else 2, 10 - item) for item in range(1, 7)] + [(2, 1, 5, 1)]
    (tmp_path / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    films = "".join(f"{item}|Film {item} (1990)|01-Jan-1990||url|" + "|".join("0" * 19) + "\n" for item in range(1, 7))
    (tmp_path / "u.item").write_text(films)
    ((user, label, text),) = movielens(tmp_path)
    assert (str(user), label, text.target) == ("1", 1, "Film 1")
    assert (text.liked, text.disliked) == (("Film 5", "Film 3"), ("Film 6", "Film 4", "Film 2"))


def test_it_is_small_and_safe_to_load(nano: Nano) -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= names
    assert (FOLDER / "model.safetensors").stat().st_size <= 8e6
    assert 1e6 <= nano.model.num_parameters() <= 3e6


def test_tokenizer_serves_the_package(nano: Nano) -> None:
    tokenizer = nano.tokenizer
    assert tokenizer.chat_template is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == nano.model.config.eos_token_id
    assert tokenizer.decode(nano.prompts.encode("Hello.")) == "<|user|>Hello.<|assistant|>"
    assert [len(tokenizer(answer).input_ids) for answer in ("Yes", "No")] == [1, 1]
    quoted = tokenizer('liked: "It\'s Ünder (1995)", "B!".').input_ids
    assert tokenizer.decode(quoted) == 'liked: "It\'s Ünder (1995)", "B!".'


@pytest.mark.cli
def test_opinions_quote_count_and_end(nano: Nano) -> None:
    rng, found = random.Random("test"), []
    for nouns in DOMAINS:
        nano.prompts = Prompts(nano.tokenizer, PromptOptions(), nouns)
        found.append(quality(nano, [history(rng) for _ in range(30)], sample=False)[0])
    for name, least in {"target exact": 0.95, "past exact": 0.9, "past attributed": 0.9, "balance right": 0.9}.items():
        assert sum(f[name] for f in found) / len(found) >= least, name
    assert min(f["ended"] for f in found) >= 0.95


@pytest.mark.parametrize("titled", [False, True])
def test_judge_reads_the_verdict(nano: Nano, titled: bool) -> None:
    rng = random.Random(f"judge {titled}")
    means = []
    for level, wanted in YES.items():
        texts = [history(rng) for _ in range(20)]
        said = [opinion(rng, text, Nouns(**nano.prompts.nouns), level)[0] for text in texts]
        yes = nano.yes(nano.prompts.lc(texts, said, titled))
        assert ((yes > 0.5) == (level > 0)).float().mean() >= 0.95
        assert yes.mean() == pytest.approx(wanted, abs=0.12)
        means.append(float(yes.mean()))
    assert means == sorted(means, reverse=True)


def test_packed_rows_teach_what_single_rows_would(nano: Nano) -> None:
    """An answer in a packed row sees its own prompt and nothing of its neighbours."""
    steps = Steps(nano.tokenizer, 1000)
    examples = [steps.example(random.Random(f"pack {kind}"), kind) for kind in ("opine", "judge")]
    rows = steps.pack([examples], 1024)
    with torch.no_grad():
        packed = nano.model(rows.ids, attention_mask=rows.mask(), position_ids=rows.position).logits[0]
        for example in examples:
            for answer in example.answers:
                alone = torch.tensor([example.prompt + answer[:-1]])
                single = nano.model(alone).logits[0, len(example.prompt) :]
                runs = rows.ids[0].unfold(0, len(answer) - 1, 1)
                start = max(i for i, run in enumerate(runs.tolist()) if run == answer[:-1])  # prompts hold "Yes." too
                torch.testing.assert_close(packed[start : start + len(answer) - 1], single, atol=1e-3, rtol=1e-3)
