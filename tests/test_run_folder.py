"""A run's own config.yaml, which may be a stranger's."""

import os
from pathlib import Path

import pytest

from expctr.errors import UserError
from expctr.run_folder import holds_run, note_owner, owner_of, read_config
from expctr.training.selection import check_same_options

WHOLE = "seed_everything: 1\nmodel: {class_path: 5}\ndata: {class_path: [1]}\nstages: {}\n"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_config_that_is_no_plain_file_is_refused(kind: str, tmp_path: Path) -> None:
    """It would be waited for, or have no end."""
    path = tmp_path / "config.yaml"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind](path)
    assert not holds_run(tmp_path)
    (tmp_path / ".run").symlink_to(path)
    assert owner_of(tmp_path) is None
    with pytest.raises(UserError, match=r"config\.yaml is no plain file\. Fix: put the run's own config\.yaml back"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[seed_everything, model, data, stages]", "is no mapping of options"),
        ("", "is no mapping of options"),
        ("seed_everything: 1\nmodel: {}\nstages: {}", "has no data"),
        ("seed_everything: 1\nmodel: [1]\ndata: {}\nstages: {}", ": model is no mapping of options"),
        ("seed_everything: 1\nmodel: {}\ndata: {}\nstages: 5", ": stages is no mapping of options"),
        ("seed_everything: 1\nmodel: {}\ndata: {}\nstages: {lc: null}", ": stages.lc is no mapping of options"),
        ("a: " + "x" * (1 << 24), "cannot be read: it is larger than 16,777,216 bytes"),
    ],
)
def test_a_config_of_another_form_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"config\.yaml ?{said}"):
        read_config(tmp_path)


def test_options_of_other_types_are_other_options(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(WHOLE)
    part = {"class_path": "expctr.A"}
    now = {"seed_everything": 1, "model": part, "data": part, "stages": {"lc": {}, "ic": {}}}
    with pytest.raises(UserError, match=r"model\.class_path is expctr\.A and the run was made with 5"):
        check_same_options(now, read_config(tmp_path))


def test_whose_files_a_folder_holds_is_noted(tmp_path: Path) -> None:
    """Also where names are no UTF-8."""
    run = tmp_path / os.fsdecode(b"caf\xe9")
    assert owner_of(tmp_path) is None
    note_owner(tmp_path, run)
    assert owner_of(tmp_path) == run
    (tmp_path / ".run").write_bytes(b"/one\0two")  # a stranger's
    assert owner_of(tmp_path) == Path("/one")
