"""The examples of docs/extending.md and docs/python.md, run as they stand in the page."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from running import World, curves, movielens

import expctr
from expctr.ctr.zoo import CTRBackbone
from expctr.data.batches import Batch, Nouns, SampleText
from expctr.data.features import Vocabulary
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import PromptOptions, Prompts

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def examples(page: str) -> dict[str, str]:
    """The fenced blocks of a page that have a title, which is the name of a file."""
    return dict(_BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))


EXTENDING, PYTHON = examples("extending.md"), examples("python.md")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the examples of both pages as files, and the data that they name."""
    for name, code in (EXTENDING | PYTHON).items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    movielens(_folder(tmp_path / ".data" / "ml-100k"))
    pairs = [(user, moment) for user in range(40) for moment in range(6)]
    plays = [f"u{user},s{(user + moment) % 7},{1 + (user + moment) % 5},{moment}" for user, moment in pairs]
    shows = [f"s{show}\tShow {show}\tHost {show % 3}" for show in range(7)]
    podcasts = _folder(tmp_path / ".data" / "podcasts")
    (podcasts / "plays.csv").write_text("\n".join(["user,item,rating,timestamp", *plays]) + "\n")
    (podcasts / "shows.tsv").write_text("\n".join(["item\ttitle\tPresenter", *shows]) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in EXTENDING:
        sys.modules.pop(Path(name).stem, None)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def run(name: str) -> dict[str, Any]:
    """The names of an example that is run as a script."""
    return runpy.run_path(name)


def test_every_kind_of_extension_has_an_example() -> None:
    assert set(EXTENDING) == {
        *("evidence.py", "evidence.yaml", "logistic.py", "logistic.yaml"),
        *("podcasts.py", "podcasts.yaml", "prompt.yaml"),
    }


def test_reward(work: Path) -> None:
    reward = run("evidence.py")["Evidence"]()
    rows = [SampleText("Heat", ("Fargo",), ()), SampleText("Heat", (), ("Fargo",))]
    batch = Batch(torch.arange(2), torch.ones(2), {}, rows)
    assert reward.score(batch, ["They liked Fargo.", "They liked Fargo."]).tolist() == [1.0, 0.0]
    assert reward.weight == 1


def test_backbone_learns_and_reads_text(work: Path) -> None:
    model: CTRBackbone = run("logistic.py")["LogisticRegression"](Vocabulary({"user": 5, "target": 5}), 3)
    torch.nn.init.normal_(model.text.z.weight)  # type: ignore[union-attr, operator]
    features = {"user": torch.tensor([2, 3]), "target": torch.tensor([4, 2])}
    plain, told = model.eval()(features), model(features, torch.randn(2, 3))
    assert plain.shape == (2,)
    assert (plain != told).all()
    plain.sum().backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if ".z." not in name)


def test_dataset_reads_its_files(work: Path) -> None:
    data = run("podcasts.py")["PodcastDataModule"](path=".data/podcasts")
    data.prepare_data()
    data.setup()
    samples = pl.concat([data.rows(split) for split in ("train", "val", "test")])
    assert samples.height == 40
    assert samples["target_title"].str.starts_with("Show ").all()
    assert "target_host" in data.features.fields
    assert data.nouns.item == "podcast"


def test_prompt_names_what_the_dataset_has(work: Path, model: LanguageModel) -> None:
    options = yaml.safe_load(Path("prompt.yaml").read_text())["model"]["init_args"]["explainer"]["prompts"]
    prompts = Prompts(model.tokenizer, PromptOptions(**options), Nouns("podcast", "podcasts", "listener", "listening"))
    (ids,) = prompts.explanation([SampleText("Heat", ("Fargo",), ())])
    text = model.tokenizer.decode(ids)
    assert 'A listener liked these podcasts: "Fargo". The listener disliked these: none.' in text
    assert 'will like or dislike "Heat".' in text


def test_all_of_them_train_together(work: Path, world: World) -> None:
    mine = [f"--config={name}" for name in sorted(EXTENDING) if name.endswith(".yaml")]
    options = [arg for arg in world.options("extended") if not arg.startswith("--data.init_args.path")]
    environ = os.environ | {"PYTHONPATH": str(Path(expctr.__file__).parents[1])}
    line = [sys.executable, "-m", "expctr", "fit", *options, *mine]
    done = subprocess.run(line, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = world.folder / "extended"
    assert "lc/reward_evidence" in curves(folder)
    (first, *_) = sorted((folder / "explanations").glob("*.parquet"))
    assert "reward_evidence" in pl.read_parquet(first).columns
    assert "LogisticRegression" in (folder / "config.yaml").read_text()


@pytest.mark.cli
@pytest.mark.parametrize("name", sorted(PYTHON))
def test_python(name: str, work: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "product.py":
        link_run(work, world)
    found = run(name)
    if name == "product.py":
        assert found["best"]["problem"].null_count() == 3
    if name == "notebook.py":
        assert len(found["sentences"]) == 2
        assert all(found["sentences"])
        assert found["sentences"][0] in capsys.readouterr().out


@pytest.mark.cli
def test_readme(work: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    link_run(work, world)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    Path("readme.py").write_text(code)
    run("readme.py")
    assert capsys.readouterr().out.strip()


def link_run(work: Path, world: World) -> None:
    """Put a trained run where the examples look for it."""
    (_folder(work / "runs") / "quickstart").symlink_to(world.tested("one"))


def test_the_notebook_is_short() -> None:
    assert len([line for line in PYTHON["notebook.py"].splitlines() if line]) <= 15
