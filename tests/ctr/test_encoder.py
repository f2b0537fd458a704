"""The sentence encoder: mean pooling by hand, a vector that depends on its text alone, and the cache."""

import contextlib
import json
import sqlite3
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

from expctr.ctr.encoder import EncoderOptions, SentenceEncoder
from expctr.errors import UserError

WORDS = ["the", "viewer", "will", "likely", "enjoy", "dislike", "this", "film", "because", "it", "is", "funny", "sad"]
TEXTS = ["the viewer will enjoy this film", "sad", "it is funny because it is sad " * 4, "the viewer will dislike this"]


def save_model(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "max_position_embeddings": 64}
    model: PreTrainedModel = (
        LlamaModel(LlamaConfig(**shape)) if kind == "llama" else BertModel(BertConfig(**shape), add_pooling_layer=False)
    )
    model.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({"<unk>": 0, **{word: i + 1 for i, word in enumerate(WORDS)}}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    # No pad token, as many Llama tokenizers have none.
    PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"))


class Counting(SentenceEncoder):
    """Records what reaches the model."""

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__(options)
        self.seen: list[str] = []

    def _encode(self, texts: list[str], device: torch.device | str) -> Tensor:
        self.seen += texts
        return super()._encode(texts, device)


def encoder(path: Path, **options: object) -> Counting:
    return Counting(EncoderOptions(path=str(path), **options))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_vectors_are_the_mean_of_the_last_hidden_layer(kind: str, tmp_path: Path):
    path = save_model(tmp_path, kind)
    model = (LlamaModel if kind == "llama" else BertModel).from_pretrained(path).eval()
    index = {word: i + 1 for i, word in enumerate(WORDS)}
    with torch.no_grad():
        by_hand = [
            model(torch.tensor([[index[w] for w in text.split()]])).last_hidden_state[0].mean(0) for text in TEXTS
        ]
    out = encoder(path).encode(TEXTS)
    assert out.dtype == torch.float32
    assert not out.requires_grad
    torch.testing.assert_close(out, torch.stack(by_hand), rtol=1e-4, atol=1e-5)


def test_a_vector_depends_on_its_text_alone(llama: Path):
    together = encoder(llama).encode(TEXTS)
    alone = torch.cat([encoder(llama).encode([text]) for text in TEXTS])
    backwards = encoder(llama, batch_size=2).encode(TEXTS[::-1] + ["funny"] * 5)[:4].flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_texts_that_fill_their_padded_length_also_depend_on_themselves_alone(llama: Path):
    full, short = " ".join(["sad"] * 16), "funny film"
    assert torch.equal(encoder(llama).encode([full, short])[0], encoder(llama).encode([full])[0])


def test_no_content_is_no_explanation(llama: Path):
    counting = encoder(llama)
    out = counting.encode(["", "funny", " \n"])
    assert out[[0, 2]].eq(0).all()
    assert out[1].abs().sum() > 0
    assert counting.seen == ["funny"]
    assert counting.encode([]).shape == (0, 16)


def test_centred_vectors_of_the_training_texts_add_up_to_zero(llama: Path):
    made = encoder(llama)
    plain = made.encode(TEXTS)
    assert torch.equal(made.vectors(TEXTS), plain)  # not centred yet
    made.centre([TEXTS[0], "", TEXTS[1], " \n", TEXTS[2]])  # blank texts do not count
    torch.testing.assert_close(made.mean, plain[:3].mean(0))
    assert made.mean.dtype == torch.float32
    torch.testing.assert_close(made.vectors(TEXTS), plain - plain[:3].mean(0))
    torch.testing.assert_close(made.vectors(TEXTS[:3]).sum(0), torch.zeros(16), rtol=0, atol=1e-5)
    assert torch.equal(made.encode(TEXTS), plain)  # what the cache holds is not centred


def test_a_blank_text_has_the_zero_vector_even_when_vectors_are_centred(llama: Path):
    made = encoder(llama)
    made.centre(TEXTS)
    assert made.mean.any()
    out = made.vectors(["", "funny", " \n"])
    assert out[[0, 2]].eq(0).all()
    torch.testing.assert_close(out[1], made.encode(["funny"])[0] - made.mean)
    assert made.vectors([]).shape == (0, 16)


def test_without_written_texts_the_mean_stays(llama: Path):
    made = encoder(llama)
    made.centre(["", "  "])
    assert made.mean.shape == ()
    made.centre(TEXTS)
    before = made.mean.clone()
    made.centre([])
    assert torch.equal(made.mean, before)


def test_long_texts_are_cut(llama: Path):
    short = encoder(llama, max_tokens=5)
    assert torch.equal(*short.encode(["the viewer will enjoy this film", "the viewer will enjoy this sad"]))
    encoder(llama).encode(["sad " * 500])  # beyond the model's positions


def test_token_vectors_have_the_text_s_vector_for_a_mean_and_depend_on_it_alone(llama: Path):
    made = encoder(llama, batch_size=2)
    texts = [*TEXTS, "", "  ", TEXTS[0]]
    tokens = made.token_vectors(texts)
    assert [len(vectors) for vectors in tokens] == [len(text.split()) for text in texts]
    means = torch.stack([vectors.mean(0) for vectors in tokens[: len(TEXTS)]])
    torch.testing.assert_close(means, made.encode(TEXTS), rtol=1e-4, atol=1e-5)
    assert torch.equal(tokens[0], tokens[-1])
    assert torch.equal(made.token_vectors(TEXTS[:1])[0], tokens[0])
    assert made.token_vectors([]) == []
    assert len(made.token_vectors(["sad \ud83d sad"])[0]) == 2  # half a character is none that the encoder knows


def test_a_text_reaches_the_model_once(llama: Path, tmp_path: Path):
    first = encoder(llama, cache_dir=tmp_path)
    out = first.encode([TEXTS[0], TEXTS[1], TEXTS[0]])
    assert torch.equal(out[0], out[2])
    first.encode(TEXTS)
    assert sorted(first.seen) == sorted(TEXTS)
    second = encoder(llama, cache_dir=tmp_path)
    assert torch.equal(second.encode(TEXTS), first.encode(TEXTS))
    assert second.seen == []


def test_memory_is_bounded(llama: Path):
    small = encoder(llama, memory=2)
    small.encode(TEXTS)
    small.encode([TEXTS[3]])
    assert len(small.seen) == 4
    small.encode([TEXTS[0]])
    assert len(small.seen) == 5


def test_encoders_do_not_mix_in_one_folder(llama: Path, tmp_path: Path):
    other = save_model(tmp_path / "other", seed=1)  # same files and sizes, other weights
    cache = tmp_path / "cache"
    mine = encoder(llama, cache_dir=cache).encode(TEXTS)
    theirs = encoder(other, cache_dir=cache)
    assert not torch.allclose(theirs.encode(TEXTS), mine)
    assert len(theirs.seen) == 4
    shorter = encoder(llama, cache_dir=cache, max_tokens=3)
    shorter.encode(TEXTS)
    assert len(shorter.seen) == 4
    config = llama / "config.json"
    before = config.read_text()
    try:
        config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 0.5}))
        changed = encoder(llama, cache_dir=cache)
        changed.encode(TEXTS)
        assert len(changed.seen) == 4
    finally:
        config.write_text(before)


def _fill(path: Path, cache: Path, texts: Sequence[str]) -> None:
    for text in texts:
        encoder(path, cache_dir=cache).encode([text])


def test_two_processes_share_a_cache(llama: Path, tmp_path: Path):
    texts = [" ".join([word, *WORDS[:length]]) for word in WORDS for length in range(2)]
    context = get_context("fork")
    workers = [context.Process(target=_fill, args=(llama, tmp_path, texts[half::2] + texts[:4])) for half in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    after = encoder(llama, cache_dir=tmp_path)
    assert torch.equal(after.encode(texts), encoder(llama).encode(texts))
    assert after.seen == []


def test_weights_must_be_safetensors(llama: Path, tmp_path: Path):
    path = save_model(tmp_path / "pickled")
    (path / "model.safetensors").unlink()
    torch.save(LlamaModel.from_pretrained(llama).state_dict(), path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        encoder(path).encode(["funny"])


@pytest.mark.parametrize("damage", ["no database", "a file in place of the folder"])
def test_a_cache_that_cannot_be_used_is_refused_at_the_start(llama: Path, tmp_path: Path, damage: str):
    cache = tmp_path / "cache"
    if damage == "no database":
        encoder(llama, cache_dir=cache).encode(TEXTS)
        (file,) = cache.iterdir()
        file.write_bytes(b"this is no database" * 100)
    else:
        cache.touch()
    with pytest.raises(UserError, match=r"encoder.cache_dir: .*sqlite cannot be used: .*\. Fix: "):
        encoder(llama, cache_dir=cache).check_cache()


def test_a_cache_in_the_home_folder_is_there(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No shell replaces the tilde of a config or of Python."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    encoder(llama, cache_dir=Path("~/cache")).encode(TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_breaks_later_is_left_with_a_warning(llama: Path, tmp_path: Path):
    made, plain = encoder(llama, cache_dir=tmp_path), encoder(llama).encode(TEXTS)
    made.check_cache()
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"this is no database" * 100)
    with pytest.warns(UserWarning, match="is no longer used"):
        assert torch.equal(made.encode(TEXTS), plain)
    assert torch.equal(made.encode(["sad"]), plain[1:2])


def test_a_vector_of_a_cache_that_is_no_number_is_not_used(llama: Path, tmp_path: Path) -> None:
    made = encoder(llama, cache_dir=tmp_path)
    plain = made.encode(TEXTS)
    with contextlib.closing(sqlite3.connect(made._cache_file)) as database, database:
        database.execute("UPDATE vectors SET z = ?", (np.full(made.dim, np.nan, "<f4").tobytes(),))
    with pytest.warns(UserWarning, match="is no longer used: a vector is NaN or infinite"):
        assert torch.equal(encoder(llama, cache_dir=tmp_path).encode(TEXTS), plain)


def test_a_cache_that_computes_is_refused(llama: Path, tmp_path: Path) -> None:
    """A view can compute without end; no handler of a signal runs meanwhile."""
    read = encoder(llama, cache_dir=tmp_path)
    endless = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS text, x AS z FROM c WHERE x < 0"
    )
    with contextlib.closing(sqlite3.connect(read._cache_file)) as database, database:
        database.execute(f"CREATE VIEW Vectors AS {endless}")
    with pytest.raises(UserError, match=r"encoder\.cache_dir: .* cannot be used: vectors is a view\. Fix: "):
        read.check_cache()


@pytest.mark.parametrize("broken", ["no weights", "no config", "weights cut short"])
def test_an_encoder_that_cannot_be_loaded_names_the_option(tmp_path: Path, broken: str):
    folder = save_model(tmp_path / "model")
    weights = folder / "model.safetensors"
    if broken == "no weights":
        weights.unlink()
    elif broken == "no config":
        (folder / "config.json").unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"encoder.path: .*model cannot be loaded"):
        encoder(folder).encode(TEXTS)


@pytest.mark.parametrize("most", ["text", [1], {"a": 1}, 0, -1, 1, True])
def test_an_encoder_that_reads_no_number_of_tokens_is_one_line(tmp_path: Path, most: object):
    folder = save_model(tmp_path / "model")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": most}))
    with pytest.raises(UserError, match=r"encoder.path: .*\. Fix: "):
        encoder(folder).encode(["funny"])


def test_an_encoder_without_positions_is_refused(tmp_path: Path):
    """All its vectors would be 0."""
    folder = save_model(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 1}))
    with pytest.raises(UserError, match=r"encoder.path: .*\. Fix: "):
        encoder(folder).encode(["funny"])


def test_the_longest_text_may_be_a_float(tmp_path: Path):
    folder = save_model(tmp_path / "model")
    before = encoder(folder).encode(["funny"])
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 40.0}))
    assert torch.equal(encoder(folder).encode(["funny"]), before)
