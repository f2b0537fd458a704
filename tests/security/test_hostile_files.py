"""Whatever a stranger's file asks to run is not run, at every option that takes a file of models or of numbers."""

import hashlib
import json
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from running import World
from security.bombs import CHECKPOINTS, MODELS, Bomb, bare_pickle, evil_module

from expctr.cli.app import run as run_cli
from expctr.cli.help import CHOICES, class_options
from expctr.ctr.encoder import EncoderOptions, SentenceEncoder
from expctr.data.cache import cached_items
from expctr.data.new_users import read_new_users
from expctr.errors import DataError, UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.planning.blueprint import base_config
from expctr.predictor import Predictor
from expctr.training.checkpoint import fault
from expctr.training.selection import select_checkpoint


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def hostile_model(name: str, good: Path, mark: Path) -> Path:
    folder = Path(shutil.copytree(good, mark.parent / "model"))
    MODELS[name][0](folder, mark)
    return folder


def base(folder: Path) -> LanguageModel:
    return LanguageModel.load(LLMOptions(path=str(folder), dtype="float32", lora_r=4))


def encode(folder: Path) -> torch.Tensor:
    return SentenceEncoder(EncoderOptions(path=str(folder))).encode(["good"])


TESTED = {"path", "gguf_file", "cache_dir", "people"}
"""Last parts of the names of options that take files of a kind that this file's tests make hostile."""


def test_each_option_that_takes_a_file_is_given_hostile_ones() -> None:
    """An option whose name sounds like a file must be tested here before it is added."""
    words = {"path", "file", "dir", "folder", "people", "pairs", "weights", "pretrained", "checkpoint"}
    names = {name for key, classes in CHOICES.items() for chosen in classes for name in class_options(chosen, key)}
    last = {name.rpartition(".")[2] for name in names}
    assert {name for name in last if words & {*name.split("_")}} == TESTED


# --- models: llm.path, llm.gguf_file, encoder.path


def refused_or_harmless(said: str, option: str, load: Callable[[Path], object], folder: Path, good: Path) -> None:
    """Assert that a folder is refused in a line about the option, or that loading it gives what the good one gives."""
    if said:
        with pytest.raises(UserError, match=rf"^{option}\.path: [\s\S]*{said.replace('|', '.')}[\s\S]*Fix: "):
            load(folder)
    else:
        assert load(folder) == load(good)


@pytest.mark.parametrize("name", MODELS)
def test_a_base_runs_nothing(name: str, llm_folder: Path, mark: Path) -> None:
    folder = hostile_model(name, llm_folder, mark)
    refused_or_harmless(MODELS[name][1], "llm", lambda path: base(path).base_checksum(), folder, llm_folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", MODELS)
def test_an_encoder_runs_nothing(name: str, llm_folder: Path, mark: Path) -> None:
    folder = hostile_model(name, llm_folder, mark)
    refused_or_harmless(MODELS[name][2], "encoder", lambda path: encode(path).tolist(), folder, llm_folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["own_model_code", "compiled_code_from_a_hub", "adapter_of_another_model"])
def test_a_plan_runs_nothing(name: str, llm_folder: Path, mark: Path) -> None:
    with pytest.raises(UserError, match=r"^llm\.path: "):
        base_config(LLMOptions(path=str(hostile_model(name, llm_folder, mark))))
    assert not mark.exists()


def test_the_bombs_are_live(llm_folder: Path, mark: Path) -> None:
    """The mark is left by what is run on purpose: otherwise these tests would prove nothing."""
    folder = hostile_model("own_model_code", llm_folder, mark)
    with pytest.raises(UserError, match="has no attribute"):  # the code is run, and has no class
        LanguageModel.load(LLMOptions(path=str(folder), trust_remote_code=True))
    assert mark.exists()
    mark.rmdir()
    pickle.loads(pickle.dumps(Bomb(mark)))  # noqa: S301
    assert mark.exists()


def test_a_gguf_file_runs_nothing(llm_folder: Path, mark: Path) -> None:
    bare_pickle(mark.parent / "model.gguf", mark)
    with pytest.raises(UserError, match=r"^llm\.path: .*GGUF"):
        LanguageModel.load(LLMOptions(path=str(mark.parent), gguf_file="model.gguf"))
    assert not mark.exists()


# --- checkpoints: ckpt_path


@pytest.mark.parametrize("make", CHECKPOINTS, ids=lambda make: make.__name__)
def test_a_checkpoint_runs_nothing(make: Callable[[Path, Path], None], mark: Path) -> None:
    make(mark.parent / "hostile.ckpt", mark)
    assert fault(mark.parent / "hostile.ckpt") is not None
    assert not mark.exists()


def test_the_command_line_refuses_a_hostile_checkpoint_in_one_line(
    world: World, mark: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_pickle(mark.parent / "hostile.ckpt", mark)
    with pytest.raises(SystemExit):
        run_cli(["test", *world.options("none"), f"--ckpt_path={mark.parent / 'hostile.ckpt'}"])
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ckpt_path: ")
    assert not mark.exists()


def test_a_checkpoint_sets_no_options(world: World, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning lets a checkpoint choose the model's class and options, and so a base with its own code."""
    monkeypatch.syspath_prepend(mark.parent)
    evil_module(mark.parent, mark, "chosen_by_the_checkpoint.py")
    torch.save({"hyper_parameters": {"class_path": "chosen_by_the_checkpoint.Evil"}}, mark.parent / "hostile.ckpt")
    run_cli(["prepare", *world.options("none"), f"--ckpt_path={mark.parent / 'hostile.ckpt'}"])
    assert not mark.exists()


# --- caches: encoder.cache_dir, data.cache_dir


@pytest.mark.parametrize("value", ["x'00000000'", "x'00'", "'text'", "5", "NULL"])
def test_a_cache_of_vectors_with_foreign_ones_is_left(value: str, llm_folder: Path, tmp_path: Path) -> None:
    options = EncoderOptions(path=str(llm_folder), cache_dir=tmp_path)
    expected = SentenceEncoder(options).encode(["good"])
    (file,) = tmp_path.iterdir()
    with sqlite3.connect(file) as database:
        database.execute(f"UPDATE vectors SET z = {value}")
    with pytest.warns(UserWarning, match="is no longer used"):
        assert torch.equal(SentenceEncoder(options).encode(["good"]), expected)


def test_a_cache_of_tables_runs_nothing(mark: Path) -> None:
    raw, folder, items = mark.parent / "raw", mark.parent / "cache", pl.DataFrame({"item": ["1"]})
    raw.touch()

    def load() -> pl.DataFrame:
        return cached_items([raw], "error", lambda: (items, {}), str(folder))[0]

    load()
    (table,), (about,) = folder.glob("*.parquet"), folder.glob("*.json")
    bare_pickle(table, mark)
    assert load().equals(items)
    bare_pickle(table, mark)
    about.write_text(json.dumps({"sha256": hashlib.sha256(table.read_bytes()).hexdigest(), "about": {}}))
    assert load().equals(items)
    bare_pickle(about, mark)
    assert load().equals(items)
    assert not mark.exists()


# --- data and runs


def test_a_file_of_people_runs_nothing(mark: Path) -> None:
    for name in ("people.csv", "people.jsonl", "people.json"):
        bare_pickle(mark.parent / name, mark)
        with pytest.raises(DataError):
            read_new_users(mark.parent / name)
    assert not mark.exists()


def test_a_config_makes_no_objects_of_python(mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = mark.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"model: !!python/object/apply:os.mkdir ['{mark}']\n")
    (run / "checkpoints").mkdir()
    torch.save({"features": {}, "loops": {}}, run / "checkpoints" / "epoch=0001-batch=000000.ckpt")
    with pytest.raises(SystemExit):
        run_cli(["fit", f"--config={run / 'config.yaml'}"])
    assert "could not determine a constructor" in capsys.readouterr().err
    for damaged in (run / "config.yaml").read_text(), "model: {}", "[1]", "{", "5", "\0":
        (run / "config.yaml").write_text(damaged)
        with pytest.raises(UserError, match=r"config\.yaml (cannot be read:|has no|is no) .*Fix: "):
            Predictor.load(run)
    assert not mark.exists()


def test_no_config_or_checkpoint_is_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_cli(["test", "--config=http://127.0.0.1:9/x.yaml"])
    assert "there is no file http://" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"ckpt_path: there is no http:"):
        select_checkpoint("test", "http://127.0.0.1:9/x.ckpt", tmp_path)
