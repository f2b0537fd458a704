"""The download of MovieLens-100K."""

import urllib.request
from email.message import Message
from http.client import BadStatusLine
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError

import pytest

from tools import get_movielens as tool


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
    def urlopen(*args: object, **options: object) -> BytesIO:
        if isinstance(answer, Exception):
            raise answer
        return answer

    def download(command: list[str], **options: object) -> None:
        assert command[-1] == tool.WHEEL
        (Path(command[command.index("--dest") + 1]) / "recbole.whl").write_bytes(b"another wheel")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(tool.subprocess, "run", download)
    with pytest.raises(SystemExit, match=r"recbole==1\.2\.1 has SHA-256 .* nothing was kept"):
        tool.get_movielens(tmp_path / "data")
    assert not (tmp_path / "data").exists()
