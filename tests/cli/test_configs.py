"""`expctr configs`, and configs found by name."""

import errno
from pathlib import Path

import pytest
from running import TESTS

from expctr.cli.configs import check_config, copy_config, describe, find_config, main, packaged_configs
from expctr.errors import UserError
from expctr.run_folder import read_config

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


def test_a_bare_name_never_means_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's data may hold one."""
    monkeypatch.chdir(tmp_path)
    Path("quickstart").touch()
    assert find_config("quickstart") == FOLDER / "quickstart.yaml"
    assert find_config("./quickstart") == Path("quickstart")


def test_an_unknown_config_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no file quickstrt, .* Fix: give one of the nearest, quickstart"):
        find_config("quickstrt")
    with pytest.raises(UserError, match="Fix: choose one that expctr configs lists"):
        find_config("/nowhere/zzz.yaml")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("data: {item: caf\xe9}".encode("latin-1"), "is not UTF-8 text. Fix: save"),
        ("a: 1".encode("utf-16"), "is not UTF-8 text. Fix: save"),
        (b"", "holds no options. Fix: write"),
        (b"- a\n", "holds no options. Fix: write"),
        (b"a:\n\tb: 1\n", r"is not YAML: .*in line 2, column 1\. Fix: correct"),
        (b"a: 1\0", "is not YAML: .*Fix: correct"),
        (b"a: 1\n---\nb: 2\n", "is not YAML: expected a single document"),
        (b"a:\n  b: {c: 1}\n  d: 2\n  b: {}\n", r"gives a\.b twice, again in line 4\. Fix: join"),
        (b"a:\n- {b: 1, b: 1}\n", r"gives a\.b twice, again in line 2"),
    ],
)
def test_a_damaged_config_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^config: {path} {reason}"):
        check_config(path)


def test_a_config_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "config.yaml"
    path.touch()
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for read, named in ((check_config, path), (read_config, tmp_path)):
        with pytest.raises(UserError, match=f"{path} cannot be read: Permission denied. Fix: check its permissions"):
            read(named)


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: &x {b: 1}\nc: {<<: *x, b: 2}\n")
    check_config(path)


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
