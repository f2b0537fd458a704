"""`expctr configs`, and configs found by name."""

from pathlib import Path

import pytest
from running import TESTS

from expctr.cli.configs import copy_config, describe, find_config, main, packaged_configs
from expctr.errors import UserError

FOLDER = TESTS.parent / "configs"


def test_every_config_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(FOLDER.rglob("*.yaml"))) == len(packaged_configs())
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_a_config_begins_with_its_description(name: str) -> None:
    path = packaged_configs()[name]
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert 20 < len(describe(path)) < 120


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_a_packaged_config_is_found_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == FOLDER / "quickstart.yaml"


def test_a_file_comes_before_a_packaged_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").touch()
    assert find_config("quickstart.yaml") == Path("quickstart.yaml")
    assert find_config("quickstart") == FOLDER / "quickstart.yaml"


def test_an_unknown_config_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no file quickstrt, .* the nearest packaged configs: quickstart"):
        find_config("quickstrt")
    with pytest.raises(UserError, match="expctr configs lists the packaged configs"):
        find_config("/nowhere/zzz.yaml")


def test_a_copy_never_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert copy_config("plus") == Path("plus.yaml")
    assert Path("plus.yaml").read_bytes() == (FOLDER / "plus.yaml").read_bytes()
    Path("plus.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"plus\.yaml exists already and was not changed"):
        copy_config("plus")
    assert Path("plus.yaml").read_text() == "mine"
    assert copy_config("plus", Path("other.yaml")).exists()
    with pytest.raises(UserError, match="cannot be written"):
        copy_config("plus", Path("nowhere/other.yaml"))
