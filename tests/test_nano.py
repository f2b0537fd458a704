"""The shipped model: its size and format, and that it quotes, counts, judges and stops, on made-up held-out text."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "expctr" / "nano"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_nano", ROOT / "tools" / "make_nano.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_nano"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nano(maker: ModuleType) -> Any:
    torch.manual_seed(0)
    return maker.Nano(FOLDER)


def test_it_is_small_and_safe_to_load(nano: Any) -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= names
    assert (FOLDER / "model.safetensors").stat().st_size <= 8e6
    assert 1e6 <= nano.model.num_parameters() <= 3e6


def test_tokenizer_serves_the_package(nano: Any) -> None:
    tokenizer = nano.tokenizer
    assert tokenizer.chat_template is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == nano.model.config.eos_token_id
    assert tokenizer.decode(nano.prompts.encode("Hello.")) == "<|user|>Hello.<|assistant|>"
    assert [len(tokenizer(answer).input_ids) for answer in ("Yes", "No")] == [1, 1]
    quoted = tokenizer('liked: "It\'s Ünder (1995)", "B!".').input_ids
    assert tokenizer.decode(quoted) == 'liked: "It\'s Ünder (1995)", "B!".'


def test_opinions_quote_count_and_end(maker: ModuleType, nano: Any) -> None:
    rng, found = random.Random("test"), []
    for nouns in maker.DOMAINS:
        nano.prompts = maker.Prompts(nano.tokenizer, maker.PromptOptions(), nouns)
        found.append(maker.quality(nano, [maker.history(rng) for _ in range(30)], sample=False)[0])
    for name, least in {"target exact": 0.95, "past exact": 0.9, "past attributed": 0.9, "balance right": 0.9}.items():
        assert sum(f[name] for f in found) / len(found) >= least, name
    assert min(f["ended"] for f in found) >= 0.95


@pytest.mark.parametrize("titled", [False, True])
def test_judge_reads_the_verdict(maker: ModuleType, nano: Any, titled: bool) -> None:
    rng = random.Random(f"judge {titled}")
    means = []
    for level, wanted in maker.YES.items():
        texts = [maker.history(rng) for _ in range(20)]
        said = [maker.opinion(rng, text, nano.prompts.nouns, level)[0] for text in texts]
        yes = nano.yes(nano.prompts.lc(texts, said, titled))
        assert ((yes > 0.5) == (level > 0)).float().mean() >= 0.95
        assert yes.mean() == pytest.approx(wanted, abs=0.12)
        means.append(float(yes.mean()))
    assert means == sorted(means, reverse=True)


def test_packed_rows_teach_what_single_rows_would(maker: ModuleType, nano: Any) -> None:
    """An answer in a packed row sees its own prompt and nothing of its neighbours."""
    steps = maker.Steps(nano.tokenizer, 1000)
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
