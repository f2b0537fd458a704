"""JSON lines are the same texts, whether polars reads them or, because of one bad line, Python does."""

import json
from pathlib import Path

import polars as pl
import pytest

from expctr.data.readers.json_lines import read_json_lines
from expctr.data.readers.values import as_list

VALUES = ["-3.0", "2.50", "7e2", "4e-9", "0.1", "1e17", "123456789012345678", "true", '"5.0"', "null"]


@pytest.mark.parametrize("bad", ["{", '{"x": 1', "7"])
def test_a_bad_line_does_not_change_the_texts_of_others(tmp_path: Path, bad: str) -> None:
    lines = [f'{{"x": {value}, "many": [{value}, 6.0]}}' for value in VALUES]
    texts = []
    for name, more in {"good": [], "bad": [bad]}.items():
        path = tmp_path / name
        path.write_text("\n".join([*lines, *more]))
        frame = read_json_lines(path, {"x": ("x",), "many": ("many",)}).frame.collect()
        assert frame["problem"].null_count() == len(lines)
        texts.append(frame[: len(lines)].select("x", as_list(pl.col("many"), pl.String())))
    assert texts[0].equals(texts[1])
    assert texts[0]["x"][:3].to_list() == ["-3", "2.5", "700"]
    assert json.loads(lines[8])["x"] == texts[0]["x"][8] == "5.0"
