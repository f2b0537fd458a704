"""An interrupt ends what polars reads in its own threads."""

import json
import threading
from collections import Counter
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from expctr.data.readers import interrupts, json_lines
from expctr.data.readers.json_lines import read_json_lines


def test_the_end_of_all_sources_is_waited_for() -> None:
    seen, began = [], threading.Event()

    def read() -> None:
        for part in interrupts.until_interrupted(count()):
            seen.append(part)
            began.set()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait()
    interrupts.end_sources()
    for thread in threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert list(interrupts.until_interrupted(iter([1, 2]))) == [1, 2]  # the next ones are read as ever


def test_a_table_is_not_read_on_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("\n".join(json.dumps({"a": i}) for i in range(10)))
    parts, interrupted = [], threading.Event()

    def chunks(_: Path) -> "count[list[bytes]]":
        for i in count():
            parts.append(i)
            began.set()
            yield [b'{"a": 1}\n']

    def collect(frame: pl.LazyFrame, **_: object) -> pl.DataFrame:
        """As polars does: reads in a thread, and raises before that ends."""
        threading.Thread(target=lambda: (real(frame, engine="streaming"), interrupted.set())).start()
        began.wait()
        raise KeyboardInterrupt

    began, real = threading.Event(), pl.LazyFrame.collect
    monkeypatch.setattr(json_lines, "_chunks", chunks)
    monkeypatch.setattr(pl.LazyFrame, "collect", collect)
    with pytest.raises(KeyboardInterrupt):
        read_json_lines(tmp_path / "a.json", {"a": ("a",)}).collect(["a"], "error", Counter())
    assert interrupted.wait(timeout=5)
