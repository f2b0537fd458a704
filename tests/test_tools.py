"""The scripts that people run."""

import importlib.util
import urllib.request
from email.message import Message
from http.client import BadStatusLine
from io import BytesIO
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "answer",
    [
        BytesIO(b"<html>Your proxy would rather not.</html>"),
        BadStatusLine("no HTTP"),
        HTTPError("url", 403, "Forbidden", Message(), None),
    ],
    ids=["a page", "no HTTP", "refused"],
)
def test_where_the_archive_cannot_be_had_the_wheel_is_taken(
    answer: BytesIO | Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load("get_movielens")

    def urlopen(*args: object, **options: object) -> BytesIO:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def download(command: list[str], **options: object) -> None:
        assert command[-1] == tool.WHEEL
        (Path(command[command.index("--dest") + 1]) / "recbole.whl").write_bytes(b"another wheel")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(tool.subprocess, "run", download)
    monkeypatch.setattr("sys.argv", ["get_movielens.py", str(tmp_path / "data")])
    with pytest.raises(SystemExit, match=r"recbole==1\.2\.1 has SHA-256 .* nothing was kept"):
        tool.main()
    assert not (tmp_path / "data").exists()
