"""A run's folder in place of options."""

from pathlib import Path

import pytest

from expctr.cli.arguments import with_packaged_configs, with_run_options
from expctr.cli.explain_untrained import needs_no_config
from expctr.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("seed_everything: 0\n")
    return tmp_path


def test_a_run_stands_for_its_config_and_its_folder(run: Path) -> None:
    """The folder may have moved since its config was written; options on top come last, so they count."""
    options = with_run_options(["test", str(run), "--results.examples", "3"])
    place = ["--config", f"{run}/config.yaml", "--trainer.default_root_dir", str(run)]
    assert options == ["test", *place, "--results.examples", "3"]
    assert with_packaged_configs(options) == options


def test_fit_goes_on_with_a_run(run: Path) -> None:
    assert with_run_options(["fit", str(run)])[-2:] == ["--ckpt_path", "last"]
    assert with_run_options(["fit", str(run), "--ckpt_path", "x"])[-2:] == ["--ckpt_path", "x"]


def test_a_home_folder_is_found(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    assert str(run) in with_run_options(["test", f"~/{run.name}"])


@pytest.mark.parametrize("args", [[], ["test"], ["test", "--config", "quickstart"], ["--help"]])
def test_without_a_run_nothing_changes(args: list[str]) -> None:
    assert with_run_options(args) == args


def test_what_is_no_run_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--config quickstart"):
        with_run_options(["test", "quickstart"])
    with pytest.raises(UserError, match=r"no run in .*\. Fix: name the folder of a run"):
        with_run_options(["test", str(tmp_path)])


def test_an_explanation_by_a_run_is_not_the_untrained_one(run: Path) -> None:
    titles = ["--liked", "Heat", "--target", "Seven"]
    assert needs_no_config(titles)
    assert not needs_no_config([str(run), *titles])
