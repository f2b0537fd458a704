"""Unknown options and classes are answered with the nearest known ones."""

import re
from pathlib import Path

import lightning as L
import pytest

from expctr.cli.app import run
from expctr.cli.parser import MOVED, Parser, explain_error, nearest_options

KNOWN = [
    "stages.rounds",
    "stages.lc.epochs",
    "model.explainer.kl.beta",
    "model.explainer.ppo.lr",
    "model.ctr.options.lr",
]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("stages.round", ["stages.rounds"]),
        ("model.explainer.kl.betta", ["model.explainer.kl.beta"]),
        ("kl.beta", ["model.explainer.kl.beta"]),  # the same option in another group
        ("lr", ["model.explainer.ppo.lr", "model.ctr.options.lr"]),
        ("optimizer.lr", ["model.explainer.ppo.lr", "model.ctr.options.lr"]),
        ("zzz", []),
    ],
)
def test_nearest_options(name: str, nearest: list[str]) -> None:
    assert nearest_options(name, KNOWN) == nearest


def test_an_error_names_options_in_full() -> None:
    found = explain_error("model: explainer: unknown option kl.betta [kl.beta, kl.target]")
    assert found == (
        "unknown option model.explainer.kl.betta; did you mean model.explainer.kl.beta or model.explainer.kl.target?"
    )
    assert explain_error("unknown option zzz []") == "unknown option zzz"
    assert explain_error("another error") == "another error"


@pytest.mark.parametrize("name", MOVED)
def test_an_option_that_has_moved_is_answered_with_its_new_name(name: str) -> None:
    *path, option = name.split(".")
    message = "".join(f"{part}: " for part in path) + f"unknown option {option} []"
    assert explain_error(message) == f"unknown option {name}: it is now {MOVED[name]}"


def test_an_unknown_class_is_answered_with_the_known_ones() -> None:
    message = "model: ctr: backbone: Expected a dot import path string: DIM"
    assert explain_error(message).startswith("model.ctr.backbone: there is no class DIM; known classes: FM, DSSM, ")


def test_null_is_null_at_any_depth() -> None:
    parser = Parser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningModule, "model")
    for typed in ("--model.kl.target=null", "--model.init_args.kl.target=null"):
        model = parser.parse_args(["--model=expctr.PPOExplainerModule", "--model.kl.target=3", typed]).model
        assert model.init_args.kl.target is None


@pytest.mark.parametrize(
    "options",
    [
        ["--config", "table", "--data.interactions", "clicks.csv", "--trainer.strategy", "auto"],
        ["--config", "baseline", "--model.backbone", "DeepFM", "--data", "TableDataModule"],
    ],
)
def test_a_word_is_not_the_name_of_a_file(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with somebody's data could hold a file called `auto`, as `trainer.strategy` is by default."""
    monkeypatch.chdir(tmp_path)
    command = ["prepare", *options, "--print_config"]

    def printed() -> str:
        with pytest.raises(SystemExit) as ended:
            run(command)
        assert not ended.value.code
        return capsys.readouterr().out

    before = printed()
    words = {word for word in re.findall(r"[\w.]+", before) if word.isidentifier()} | {"DeepFM", "TableDataModule"}
    assert {"auto", "cpu"} & words
    for word in words:
        Path(word).write_text("class_path: lightning.pytorch.strategies.DDPStrategy")
    assert printed() == before
