"""Progress of reading: nothing at first, then lines in a log or a bar in a terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from expctr.data.readers import progress
from expctr.data.readers.progress import INTERVAL, PATIENCE, ReadingProgress


def shown(folder: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, times: list[float]) -> str:
    """What is printed about a file of 1,000 rows that are read at these times, in equal parts."""
    (folder / "reviews [b].json").write_bytes(b"x" * 10_000)
    clock = iter([0.0, *times])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with (folder / "reviews [b].json").open("rb") as raw:
        reading = ReadingProgress(Path(raw.name), raw, Console(file=out, force_terminal=terminal, width=120))
        for i in range(len(times)):
            raw.read(10_000 // len(times))
            reading.rows(1000 * (i + 1) // len(times))
        monkeypatch.undo()
        reading.close()
    return out.getvalue()


def test_a_log_gets_a_line_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(tmp_path, monkeypatch, False, [PATIENCE / 2, 5, 6, 5 + INTERVAL]).splitlines()
    assert lines == [
        "reading reviews [b].json (10.0 kB): 500 rows, 100 per second, 50%, 5 s left",
        "reading reviews [b].json (10.0 kB): 1,000 rows, 67 per second, 100%, 0 s left",
    ]


def test_a_small_file_is_read_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        assert shown(tmp_path, monkeypatch, terminal, [0.1, PATIENCE - 0.1]) == ""


def test_a_terminal_gets_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(tmp_path, monkeypatch, True, [5.0, *[6.0] * 40])
    assert "reviews [b].json (10.0 kB): 1,000 rows, 167 per second" in text
