"""Tables of one's own: files and frames of any kind become the same raw tables; what is wrong is named by its place."""

import base64
import gzip
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from expctr.data.readers.base import RawTables
from expctr.data.readers.columns import TableColumns
from expctr.data.readers.sources import open_source
from expctr.data.readers.table import TableReader
from expctr.errors import DataError

CLICKS = pl.DataFrame(
    {
        "user_id": ["ann", "ann", "bob", "bob"],
        "sku": ["a", "b", "a", "c"],
        "clicked": [1, 0, 0, 1],
        "ts": [1_700_000_000, 1_700_000_100, 1_700_000_050, 1_700_000_200],
        "position": [1, 2, 1, 3],
    }
)
ITEMS = pl.DataFrame(
    {
        "sku": ["a", "b", "c"],
        "name": ["Anvil", "Bell", "Cup"],
        "price": [1.5, None, 3.0],
        "brand": ["x", "y", None],
        "tags": [["t", "u"], [], ["u", "t"]],
        "new": [True, False, None],
    }
)


def reader(interactions: Any, items: Any = None, users: Any = None, **more: Any) -> TableReader:
    options = {"columns": TableColumns(), "features": None, "is_timed": True} | more
    return TableReader({"": interactions}, items, users, **options)


def collected(tables: RawTables) -> list[list[dict[str, Any]]]:
    """The good rows of all tables, in order."""
    about = ("row", "line", "problem", "column", "file", "other_titles")
    found = []
    for table in (tables.interactions, tables.items, tables.users):
        if table is not None:
            own = [name for name in table.frame.collect_schema() if name not in about]
            frame = table.collect(own, "error", Counter()).select(sorted(own))
            found.append(frame.sort(*(name for name in ("user", "item") if name in own)).to_dicts())
    return found


def write_all(folder: Path, frame: pl.DataFrame, name: str) -> dict[str, str]:
    """One table in all formats."""
    plain = frame.with_columns(pl.col(pl.List(pl.String)).list.join("|")).select(pl.exclude(pl.Struct))
    kinds = ("parquet", "csv", "tsv", "jsonl", "json", "jsonl.gz", "JSONL.GZ", "jsonl.zst")
    paths = {kind: str(folder / f"{name}.{kind}") for kind in kinds}
    frame.write_parquet(paths["parquet"])
    plain.write_csv(paths["csv"])
    plain.write_csv(paths["tsv"], separator="\t", quote_style="never")
    frame.write_ndjson(paths["jsonl"])
    Path(paths["json"]).write_text(json.dumps(frame.to_dicts()))
    for kind in ("jsonl.gz", "JSONL.GZ"):
        Path(paths[kind]).write_bytes(gzip.compress(Path(paths["jsonl"]).read_bytes()))
    frame.lazy().sink_ndjson(paths["jsonl.zst"], compression="zstd")
    return paths


def test_all_formats_and_frames_are_the_same_tables(tmp_path: Path) -> None:
    clicks, items = write_all(tmp_path, CLICKS, "clicks"), write_all(tmp_path, ITEMS, "items")
    expected = collected(reader(CLICKS, ITEMS).tables)
    assert expected[0][0] == {"item": "a", "rating": 1.0, "timestamp": 1_700_000_000_000_000, "user": "ann"}
    assert expected[1][0] == {
        "brand": "x",
        "item": "a",
        "new": True,
        "price": 1.5,
        "tags": ["t", "u"],
        "title": "Anvil",
    }
    for kind in clicks:
        assert collected(reader(clicks[kind], items[kind]).tables) == expected, kind
    assert collected(reader(CLICKS.lazy(), ITEMS.lazy()).tables) == expected


class Column:
    """A column of pandas, as far as it is used."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def notna(self) -> list[bool]:
        return [not (value is None or (isinstance(value, float) and value != value)) for value in self.values]

    def astype(self, kind: type) -> "Column":
        assert kind is object
        return self

    def where(self, mask: list[bool], other: None) -> "Column":
        return Column([value if good else other for value, good in zip(self.values, mask, strict=True)])

    def tolist(self) -> list[Any]:
        return self.values


class PandasFrame:
    """A frame of pandas, as far as it is used: pandas itself is not installed with expctr."""

    iloc = None

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = [*columns]
        self.values = columns

    def __getitem__(self, name: str) -> Column:
        return Column(self.values[name])


def test_a_frame_of_pandas_is_read_without_pandas() -> None:
    nan = float("nan")
    items = PandasFrame(**(ITEMS.to_dict(as_series=False) | {"brand": ["x", "y", nan], "price": [1.5, nan, 3.0]}))
    clicks = PandasFrame(**CLICKS.to_dict(as_series=False))
    assert collected(reader(clicks, items).tables) == collected(reader(CLICKS, ITEMS).tables)


@pytest.mark.parametrize("named", [".", "ts=*/*/*.csv", "**/part-*.csv"])
def test_columns_that_only_the_folders_names_hold_are_read(tmp_path: Path, named: str) -> None:
    for (label, time), rows in CLICKS.group_by("clicked", "ts"):
        folder = tmp_path / f"ts={time}" / f"clicked={label}"
        folder.mkdir(parents=True)
        rows.select("user_id", "sku").write_csv(folder / "part-0.csv")
    assert collected(reader(str(tmp_path / named)).tables) == collected(reader(CLICKS.drop("position")).tables)


def test_folders_above_and_columns_of_the_file_itself_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "user_id=nobody" / "sku=other" / "brand=A%2FB"
    folder.mkdir(parents=True)
    CLICKS.write_parquet(folder / "x.parquet")
    source = open_source(str(tmp_path / "user_id=nobody"), "data.interactions")
    assert source.names == [*CLICKS.columns, "brand"]
    assert source.table.frame.collect()["raw.brand"].unique().to_list() == ["A/B"]
    assert source.table.frame.collect()["raw.sku"].to_list() == CLICKS["sku"].to_list()


def test_a_folder_a_glob_and_one_file_are_the_same_table(tmp_path: Path) -> None:
    folder = tmp_path / "clicks" / "day=1"
    folder.mkdir(parents=True)
    CLICKS[:3].write_parquet(folder / "part-0.parquet")
    CLICKS[3:].with_columns(pl.col("position").cast(pl.Float64)).write_parquet(folder / "part-1.parquet")
    (folder.parent / "_SUCCESS").touch()
    expected = collected(reader(CLICKS, ITEMS).tables)
    for named in (folder.parent, folder / "*.parquet", tmp_path / "**" / "part-*.parquet"):
        found = reader(str(named), ITEMS)
        assert collected(found.tables) == expected
        assert [path.name for path in found.tables.interactions.files] == ["part-0.parquet", "part-1.parquet"]


def test_nothing_there_and_several_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        reader(str(tmp_path / "gone.csv")).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.interactions: no file matches .*\*\.csv"):
        reader(str(tmp_path / "*.csv")).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.interactions: no table in"):
        reader(str(tmp_path)).tables  # noqa: B018
    write_all(tmp_path, CLICKS, "clicks")
    with pytest.raises(DataError, match=r"several formats \(CSV, JSON, JSON lines, parquet\)"):
        reader(str(tmp_path)).tables  # noqa: B018
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "torn.parquet").write_bytes(Path(tmp_path / "clicks.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read .*torn\.parquet"):
        reader(str(tmp_path / "x")).tables  # noqa: B018
    CLICKS.write_parquet(tmp_path / "x" / "a.parquet")
    CLICKS.with_columns(ts=pl.lit([1])).write_parquet(tmp_path / "x" / "torn.parquet")
    with pytest.raises(DataError, match=r"column ts holds numbers in .*a\.parquet and lists in .*torn\.parquet"):
        reader(str(tmp_path / "x")).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.interactions is of type int"):
        reader(7).tables  # noqa: B018


MOMENT = datetime(2024, 3, 1, 12, 30, 15, 500_000, tzinfo=UTC)
TIMES: dict[str, list[Any]] = {
    "seconds": [1_709_296_215, 1_709_296_216],
    "milliseconds": [1_709_296_215_500, 1_709_296_216_500],
    "microseconds": [1_709_296_215_500_000, 1_709_296_216_500_000],
    "nanoseconds": [1_709_296_215_500_000_000, 1_709_296_216_500_000_000],
    "float seconds": [1_709_296_215.5, 1_709_296_216.5],
    "text of seconds": ["1709296215.5", "1709296216.5"],
    "ISO": ["2024-03-01T12:30:15.5", "2024-03-01 12:30:16.500"],
    "ISO with zone": ["2024-03-01T14:30:15.5+02:00", "2024-03-01 12:30:16.500Z"],
    "datetimes": [MOMENT.replace(tzinfo=None), MOMENT.replace(tzinfo=None) + timedelta(seconds=1)],
    "datetimes with zone": [MOMENT, MOMENT + timedelta(seconds=1)],
}


@pytest.mark.parametrize("form", TIMES)
def test_times_of_every_form_are_microseconds(form: str) -> None:
    clicks = CLICKS[:2].with_columns(pl.Series("ts", TIMES[form]))
    table = reader(clicks, ITEMS).tables.interactions
    expected = [1_709_296_215_500_000, 1_709_296_216_500_000]
    if form == "seconds":
        expected = [time - 500_000 for time in expected]
    assert table.collect(["timestamp"], "error", Counter())["timestamp"].to_list() == expected


def test_parts_may_write_times_in_several_units_and_zones(tmp_path: Path) -> None:
    moments = pl.Series("ts", [MOMENT.replace(tzinfo=None)]).dt
    kinds = [moments.cast_time_unit(unit) for unit in ("ms", "us", "ns")]
    kinds += [
        kinds[0].dt.replace_time_zone("UTC"),
        kinds[2].dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
    ]
    for i, times in enumerate(kinds):
        CLICKS[i % 4].with_columns(times).write_parquet(tmp_path / f"{i}.parquet")
    table = reader(str(tmp_path), ITEMS).tables.interactions
    assert table.collect(["timestamp"], "error", Counter())["timestamp"].to_list() == [1_709_296_215_500_000] * 5


def test_dates_are_their_first_moment() -> None:
    for days in (
        pl.Series("ts", ["2024-03-01", "2024-03-02"]),
        pl.Series("ts", ["2024-03-01", "2024-03-02"]).str.to_date(),
    ):
        table = reader(CLICKS[:2].with_columns(days), ITEMS).tables.interactions
        first, second = table.collect(["timestamp"], "error", Counter())["timestamp"]
        assert first == datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 10**6
        assert second - first == 86_400 * 10**6


BAD: dict[str, tuple[str, list[Any], int, str]] = {
    "a label that is neither": ("clicked", ["1", "0", "maybe", "1"], 3, "label is neither 1 nor 0"),
    "a number as a label": ("clicked", [1, 0, 1, 4], 4, "label is neither 1 nor 0"),
    "no label": ("clicked", [1, None, 0, 1], 2, "label is neither 1 nor 0"),
    "no time": ("ts", [1, 2, None, 4], 3, "no timestamp"),
    "another unit": ("ts", [1.7e12, 1.7e12, 1.7e9, 1.7e12], 3, "timestamp is unlike most others"),
    "a 0 for no time": ("ts", [1_700_000_000, 1_700_000_001, 1_700_000_002, 0], 4, "timestamp is unlike most others"),
    "a word for a time": ("ts", ["1700000000", "x", "1700000001", "1700000002"], 2, "timestamp is unlike most others"),
    "no user": ("user_id", ["ann", "", "bob", "bob"], 2, "no user or item id"),
    "no item": ("sku", ["a", "b", "c", None], 4, "no user or item id"),
    "no split": ("split", ["train", "dev", "test", "tset"], 4, "split is none of train, val and test"),
}


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "jsonl.zst"])
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_is_named_counted_and_skipped(fault: str, kind: str, tmp_path: Path) -> None:
    column, values, row, problem = BAD[fault]
    paths = write_all(tmp_path, CLICKS.with_columns(pl.Series(column, values)), "clicks")
    table = reader(paths[kind], ITEMS).tables.interactions
    row += kind == "csv"  # its first row is the header
    with pytest.raises(
        DataError, match=rf"{problem}, .*clicks\.{kind}, row {row}, column {column}: .*\(1 of 4 rows read are"
    ):
        table.collect(["user"], "error", Counter())
    dropped = Counter[str]()
    assert table.collect(["user"], "skip", dropped).height == 3
    assert dropped == {f"clicks.{kind}: {problem}": 1}


def test_a_bad_row_of_several_files_is_in_the_file_that_is_named(tmp_path: Path) -> None:
    CLICKS.write_parquet(tmp_path / "a.parquet")
    CLICKS.with_columns(clicked=pl.lit(7)).write_parquet(tmp_path / "b.parquet")
    table = reader(str(tmp_path / "*.parquet"), ITEMS).tables.interactions
    with pytest.raises(DataError, match=r"neither 1 nor 0, .*b\.parquet, row 1, column clicked: .*ann"):
        table.collect(["user"], "error", Counter())


def test_truths_are_labels_however_they_are_written() -> None:
    for values in ([True, False], [1.0, 0.0], ["1", "0"], ["true", "False"], ["YES", "no"]):
        table = reader(CLICKS[:2].with_columns(pl.Series("clicked", values)), ITEMS).tables.interactions
        assert table.collect(["rating"], "error", Counter())["rating"].to_list() == [1, 0]


def test_ids_of_bytes_are_text_or_hexadecimal(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and those that are but hold a control character."""
    raw = [b"\xff" * 4, b"ann", b"a\x00bc", None]
    log = CLICKS.with_columns(user_id=pl.Series(raw, dtype=pl.Binary), sku=pl.Series([b"\x80", b"b", b"\x80", b"c"]))
    items = ITEMS.with_columns(
        sku=pl.Series([b"\x80", b"b", b"c"]), name=pl.Series([b"Anvil", b"\xfe", b"Caf\xc3\xa9"])
    )
    log.write_parquet(tmp_path / "log.parquet")
    items.write_parquet(tmp_path / "items.parquet")
    tables = reader(str(tmp_path / "log.parquet"), str(tmp_path / "items.parquet")).tables
    found = tables.interactions.collect(["user", "item"], "skip", Counter())
    assert found.rows() == [("ffffffff", "80"), ("ann", "b"), ("61006263", "80")]
    titles = tables.items.collect(["item", "title"], "skip", Counter()).rows()
    assert titles == [("80", "Anvil"), ("c", "Café")]


def test_ids_that_became_floats_match_ids_of_whole_numbers() -> None:
    clicks = CLICKS.with_columns(sku=pl.Series([28.0, 3.0, 28.0, None]))
    items = ITEMS.with_columns(sku=pl.Series([28, 3, 4]))
    tables = reader(clicks, items).tables
    assert tables.interactions.collect(["item"], "skip", Counter())["item"].to_list() == ["28", "3", "28"]
    assert tables.items.collect(["item"], "error", Counter())["item"].to_list() == ["28", "3", "4"]


def test_a_named_column_that_is_missing_gets_the_nearest_names() -> None:
    with pytest.raises(DataError, match=r"data.columns.label: there is no column 'clickd'. The nearest: clicked.*ts"):
        reader(CLICKS, ITEMS, columns=TableColumns(label="clickd")).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.columns.title: there is no column 'nmae'. The nearest: name"):
        reader(CLICKS, ITEMS, columns=TableColumns(title="nmae")).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.features: there is no column 'prise'. The nearest: price"):
        reader(CLICKS, ITEMS, features={"prise": "number"}).tables  # noqa: B018
    with pytest.raises(
        DataError, match=r"which column is the user\? It has u, sku.* Fix: add --data\.columns\.user NAME"
    ):
        reader(CLICKS.rename({"user_id": "u"}), ITEMS).tables  # noqa: B018


OTHER_SPLITS: dict[str, tuple[tuple[str, str], str]] = {
    "no label in val": (
        ("val", "-clicked"),
        r"data.splits.val \(.*val.csv\) has no column 'clicked', which is the label of data.splits.train \(.*train.csv",
    ),
    "no label in test": (("test", "-clicked"), r"data.splits.test \(.*test.csv\) has no column 'clicked'"),
    "no label in train": (
        ("train", "-clicked"),
        r"data.splits.train .*no column 'clicked', .* label of data.splits.val",
    ),
    "a rating in test": (
        ("test", "stars"),
        r"data.splits.test .* no column 'clicked'.*; its column 'stars' is a rating",
    ),
    "ready rows in val": (("val", "liked"), r"data.splits.val .* has ready rows, but data.splits.train .* plain rows"),
    "ready rows in train": (("train", "liked"), r"data.splits.val .* has plain rows, but data.splits.train .* ready"),
}


@pytest.mark.parametrize("fault", OTHER_SPLITS)
def test_splits_of_different_kinds_are_refused(fault: str, tmp_path: Path) -> None:
    (split, change), message = OTHER_SPLITS[fault]
    changed = {
        "-clicked": CLICKS.drop("clicked"),
        "stars": CLICKS.rename({"clicked": "stars"}),
        "liked": CLICKS.drop("ts").with_columns(liked=pl.lit("a|b"), disliked=pl.lit("c")),
    }
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("train", "val", "test")}
    for name, path in paths.items():
        (changed[change] if name == split else CLICKS).write_csv(path)
    with pytest.raises(DataError, match=message):
        TableReader(paths, ITEMS, None, TableColumns(), None, True).tables  # noqa: B018


def test_a_bad_value_of_a_feature_is_missing_and_counted_and_its_row_stays(tmp_path: Path) -> None:
    items = ITEMS.drop("tags").with_columns(
        price=pl.Series(["1.5", "cheap", "dear"]), new=pl.Series(["yes", "no", "?"])
    )
    items.write_csv(tmp_path / "items.csv")
    kinds: dict[str, Any] = {"price": "number", "new": "boolean", "position": "boolean"}
    clicks = CLICKS.with_columns(split=pl.Series(["train", "val", "test", "test"]))
    tables = reader(clicks, str(tmp_path / "items.csv"), features=kinds).tables
    with pytest.raises(
        DataError, match=r"not of its kind, .*items\.csv, row 3, column price: .*skip bad values with .*: sk"
    ):
        tables.items.collect(["item"], "error", Counter())
    dropped = Counter[str]()
    found = tables.items.collect_unique("item", "skip", dropped).select("item", "price", "new").rows()
    assert found == [("a", 1.5, True), ("b", None, False), ("c", None, None)]
    assert dropped == {"items.csv, column price: value that is not of its kind, and counts as missing": 2}
    # of the interactions' own features: positions 2 and 3 are no booleans
    skipped = Counter[str]()
    rows = {name: table.collect(["user"], "skip", skipped).height for name, table in tables.splits.items()}
    assert rows == {"train": 1, "val": 1, "test": 2}
    assert sum(skipped.values()) == 2


def test_columns_of_any_name_are_used_as_named() -> None:
    clicks = CLICKS.rename({"user_id": "wer", "sku": "was", "clicked": "ja", "ts": "wann"})
    items = ITEMS.rename({"sku": "was", "name": "wie"})
    named = TableColumns(user="wer", item="was", label="ja", timestamp="wann", title="wie")
    assert collected(reader(clicks, items, columns=named).tables) == collected(reader(CLICKS, ITEMS).tables)


def test_a_column_may_have_a_name_that_readers_use() -> None:
    items = ITEMS.rename({"brand": "row", "price": "problem", "new": "user"})
    (_, found) = collected(reader(CLICKS, items).tables)
    assert found[0] == {"item": "a", "problem_": 1.5, "row_": "x", "tags": ["t", "u"], "title": "Anvil", "user_": True}


@pytest.mark.parametrize("own", ["product_id", "Product_ID"])
def test_side_tables_are_joined_by_the_name_that_the_interactions_use(own: str) -> None:
    """Though another column has a name that is more usual, and its numbers overlap."""
    clicks = pl.DataFrame({"member_id": [1, 2], "product_id": [10, 11], "clicked": [1, 0], "ts": [1, 2]})
    items = pl.DataFrame({"sku": [11, 10], own: [10, 11], "name": ["Ten", "Eleven"]})
    users = pl.DataFrame({"user_id": [2, 1], "member_id": [1, 2], "age": [20, 30]})
    tables = reader(clicks, items, users).tables
    _, titles, ages = collected(tables)
    assert [(row["item"], row["title"]) for row in titles] == [("10", "Ten"), ("11", "Eleven")]
    assert [(row["user"], row["age"]) for row in ages] == [("1", 20), ("2", 30)]
    assert any(f"item = {own}; title = name; features sku" in note for note in tables.notes)
    usual = collected(reader(clicks, items.drop(own), users.drop("member_id")).tables)
    assert [row["title"] for row in usual[1]] == ["Ten", "Eleven"][::-1]


def test_without_times_a_random_order_must_be_chosen() -> None:
    with pytest.raises(
        DataError,
        match=r"the timestamp\? It has user_id, sku, clicked.*--data\.columns\.timestamp NAME; .*order: shuffle",
    ):
        reader(CLICKS.drop("ts"), ITEMS).tables  # noqa: B018
    table = reader(CLICKS.with_columns(ts=None), ITEMS, is_timed=False).tables.interactions
    assert table.collect(["timestamp"], "error", Counter())["timestamp"].to_list() == [None] * 4


def test_titles_come_from_the_interactions_or_are_the_ids() -> None:
    names = ITEMS.select("sku", title="name")
    both = reader(CLICKS.join(names, on="sku")).tables
    assert collected(both)[1] == [{"item": i, "title": t} for i, t in names.rows()]
    features = reader(CLICKS.join(names, on="sku"), ITEMS.drop("name", "tags")).tables
    assert collected(features)[1][0] == {"brand": "x", "item": "a", "new": True, "price": 1.5, "title": "Anvil"}
    assert not both.no_titles
    assert not features.no_titles
    part = ITEMS.drop("tags")[:2].with_columns(name=pl.Series(["An anvil", None]))
    found = collected(reader(CLICKS.join(names, on="sku"), part).tables)[1]
    assert [(row["item"], row["title"], row["brand"]) for row in found] == [
        ("a", "An anvil", "x"),
        ("b", "Bell", "y"),
        ("c", "Cup", None),
    ]
    plain = reader(CLICKS).tables
    assert collected(plain)[1] == [{"item": i, "title": i} for i in "abc"]
    assert plain.no_titles
    assert reader(CLICKS, ITEMS.drop("name")).tables.no_titles


def test_the_notes_say_what_became_of_each_column() -> None:
    clicks, items = reader(CLICKS, ITEMS).tables.notes
    assert clicks.startswith(
        "data.interactions: user = user_id; item = sku; label = clicked; timestamp = ts (seconds, "
    )
    assert "2023-11-14" in clicks
    assert clicks.endswith("not used: position")
    assert items == (
        "data.items: item = sku; title = name; features price (quantiles), brand (category), tags (list), new (boolean)"
    )


def test_kinds_of_a_text_file_are_found_by_its_content(tmp_path: Path) -> None:
    items = pl.DataFrame(
        {
            "id": range(300),
            "title": [f"T{i}" for i in range(300)],
            "count": [i % 7 for i in range(300)],
            "year": ["NA" if i % 3 else str(1990 + i % 9) for i in range(300)],
            "flag": [i % 2 == 0 for i in range(300)],
            "kind": [f"k{i % 4}" for i in range(300)],
            "words": [f"w{i % 5}|w{i % 3}" if i % 10 else "" for i in range(300)],
            "listed": [json.dumps([f"a, {i % 3}"]) for i in range(300)],
            "url": [f"http://{i}.x" for i in range(300)],
            "nothing": [""] * 300,
        }
    )
    items.write_csv(tmp_path / "items.csv")
    tables = reader(CLICKS.with_columns(sku=pl.Series([0, 1, 2, 3])), str(tmp_path / "items.csv")).tables
    assert tables.notes[1].split("features ")[1] == (
        "count (quantiles), year (quantiles), flag (boolean), kind (category), words (list), listed (list); "
        "not used: url (most rows have a value of their own), nothing (empty)"
    )
    row = tables.items.collect_unique("item", "error", Counter()).row(1, named=True)
    assert (row["count"], row["flag"], row["words"], row["listed"]) == (1.0, False, ["w1", "w1"], ["a, 1"])
    assert row["year"] is None


def test_spellings_of_nothing_are_no_categories(tmp_path: Path) -> None:
    nothing = ["NULL", r"\N", "NA", "None", " nan ", "#REF!"]
    items = pl.DataFrame(
        {"sku": range(7), "name": "T", "brand": [*nothing, "x"], "tags": [f"{n}|t" for n in nothing] + ["NULL"]}
    )
    items.write_csv(tmp_path / "items.csv")
    frames = (items.with_columns(pl.col("tags").str.split("|")), str(tmp_path / "items.csv"))
    for source in frames:
        tables = reader(CLICKS, source, features={"brand": "category", "tags": "list"}).tables
        found = tables.items.collect(["brand", "tags"], "error", Counter())
        assert found["brand"].to_list() == [None] * 6 + ["x"]
        assert found["tags"].to_list() == [["t"]] * 6 + [[]]


def test_a_list_that_cannot_be_read_is_no_value_of_a_feature(tmp_path: Path) -> None:
    """It was one value: a list that numpy shortened, and one that a spreadsheet cut off."""
    for tags in ("['t' ... 'u']", '["t", "u'):
        items = ITEMS.with_columns(tags=pl.Series(['["t", "u"]', "['t', nan]", tags]))
        items.write_csv(tmp_path / "items.csv")
        found = reader(CLICKS, str(tmp_path / "items.csv")).tables.items
        with pytest.raises(DataError, match=r"feature is not of its kind, .*items\.csv, row 4, column tags"):
            found.collect(["item"], "error", Counter())
        dropped = Counter[str]()
        assert found.collect_unique("item", "skip", dropped)["tags"].to_list() == [["t", "u"], ["t"], None]
        assert dropped == {"items.csv, column tags: value that is not of its kind, and counts as missing": 1}


def test_times_of_day_and_durations_are_seconds() -> None:
    times = ITEMS.select("sku", "name", noon=pl.time(12), wait=pl.duration(minutes=1.5, time_unit="ms"))
    assert collected(reader(CLICKS, times).tables)[1][0] == {"item": "a", "noon": 43200, "title": "Anvil", "wait": 90}


def test_named_features_are_of_the_named_kinds_and_the_only_ones() -> None:
    kinds: dict[str, Any] = {"price": "category", "tags": "list", "position": "number"}
    tables = reader(CLICKS, ITEMS, features=kinds).tables
    interactions, items = collected(tables)
    assert items[0] == {"item": "a", "price": "1.5", "tags": ["t", "u"], "title": "Anvil"}
    assert [row["context_position"] for row in interactions] == [1, 2, 1, 3]
    with pytest.raises(DataError, match=r"feature is not of its kind, .* row 1, column brand"):
        reader(CLICKS, ITEMS, features={"brand": "number"}).tables.items.collect(["item"], "error", Counter())
    with pytest.raises(DataError, match=r"data.features: clicked is one of the columns that samples are made of"):
        reader(CLICKS, ITEMS, features={"clicked": "boolean"}).tables  # noqa: B018
    wrong: Any = {"brand": "sort"}
    with pytest.raises(DataError, match=r"data.features.brand: no kind is called 'sort'. Fix: choose from number, "):
        reader(CLICKS, ITEMS, features=wrong).tables  # noqa: B018
    with pytest.raises(DataError, match=r"data.features.tags: a column of type List\(String\) cannot be .* number"):
        reader(CLICKS, ITEMS, features={"tags": "number"}).tables  # noqa: B018


def test_backslashes_in_a_table_with_semicolons_stand_for_themselves(tmp_path: Path) -> None:
    """Only those before a quote escape it."""
    (tmp_path / "items.csv").write_text('sku;name;brand\na1;AC\\DC;"CORP\\b"\nb2;"The \\"Bell\\" C:\\\\x";B\n')
    (tmp_path / "clicks.csv").write_text("user_id;sku;clicked;ts\nCORP\\u1;a1;1;1700000000\nCORP\\u1;b2;0;1700000060\n")
    tables = reader(tmp_path / "clicks.csv", tmp_path / "items.csv").tables
    assert set(tables.items.collect(["title"], "error", Counter())["title"]) == {"AC\\DC", 'The "Bell" C:\\\\x'}
    assert set(tables.interactions.collect(["user"], "error", Counter())["user"]) == {"CORP\\u1"}


@pytest.mark.parametrize("log", ["_delta_log/0.json", ".hoodie/hoodie.properties", "metadata/v1.metadata.json"])
def test_the_files_of_a_lake_are_not_read_without_its_log(log: str, tmp_path: Path) -> None:
    """Files whose rows were deleted are still there."""
    folder = tmp_path / "clicks"
    (folder / log).parent.mkdir(parents=True)
    (folder / log).touch()
    (folder / "day=1").mkdir()
    CLICKS.write_parquet(folder / "day=1" / "part-0.parquet")
    message = r"data\.interactions: .*clicks is a table with a log of its own .*Fix: read it"
    for named in (folder, tmp_path, folder / "*" / "*.parquet", folder / "day=1", folder / "day=1" / "part-?.parquet"):
        with pytest.raises(DataError, match=message):
            reader(str(named), ITEMS).tables  # noqa: B018
    assert reader(str(folder / "day=1" / "part-0.parquet"), ITEMS).tables  # meant as it is


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match=r"data\.items: the name is empty\. Fix: name a file"):
        reader(CLICKS, "").tables  # noqa: B018


@pytest.mark.parametrize("kind", ["items", "users"])
def test_a_log_in_place_of_items_or_users_tells_no_outcome(kind: str) -> None:
    read = reader(CLICKS, **{kind: CLICKS.with_columns(device=pl.lit("phone"))})
    table = getattr(read.tables, kind)
    assert not {"clicked", "ts", "user_id", "sku"} & {*table.frame.collect_schema()}
    assert "device" in table.frame.collect_schema()
    (doubt,) = read.tables.doubts
    assert re.search(rf"data\.{kind}: .* has a row per event, with .*clicked.* Fix: give a table with one row", doubt)


@pytest.mark.parametrize("missing", ["\\N", "<NA>", "#N/A", "NULL", "nan", "none", "n/a", "undefined", "N/A"])
def test_spellings_of_nothing_are_no_users_and_no_titles(missing: str) -> None:
    clicks = CLICKS.with_columns(
        user_id=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(missing)).otherwise("user_id")
    )
    with pytest.raises(DataError, match="no user"):
        reader(clicks, ITEMS).tables.interactions.collect(["user"], "error", Counter())
    items = ITEMS.with_columns(name=pl.lit(missing))
    assert set(reader(CLICKS, items).tables.items.collect(["title"], "error", Counter())["title"]) == {None}


@pytest.mark.parametrize("rounded", ["1E+12", "1,23457E+12", "1.23E+12", "1.1529E18", "1152921504606846976.0"])
def test_ids_that_a_spreadsheet_rounded_are_refused(rounded: str) -> None:
    clicks = CLICKS.with_columns(user_id=pl.lit(rounded))
    with pytest.raises(DataError, match="lost its last digits"):
        reader(clicks, ITEMS).tables.interactions.collect(["user"], "error", Counter())


def test_ids_that_were_large_floats_are_refused_in_json_lines(tmp_path: Path) -> None:
    """A whole number holds all its digits."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"user": {user}, "item": 1, "ts": 5}}\n' for user in ("7", "1.152921504606847e+18")))
    with pytest.raises(DataError, match=r"lost its last digits, .*row 2, column user: "):
        reader(str(path)).tables.interactions.collect(["user"], "error", Counter())
    path.write_text(path.read_text().replace("1.152921504606847e+18", "1152921504606846977"))
    found = reader(str(path)).tables.interactions.collect(["user"], "error", Counter())
    assert found["user"].to_list() == ["7", "1152921504606846977"]


def test_times_with_a_fixed_offset_in_parquet_are_read(tmp_path: Path) -> None:
    """As pandas writes what it reads of 2023-11-22T21:22:19+05:30; also in a column that is not used."""
    zone, path = pl.Datetime("us", "Poland"), tmp_path / "log.parquet"
    CLICKS.with_columns(pl.col("ts").mul(10**6).cast(zone), other=pl.lit(0).cast(zone)).write_parquet(path)
    content = path.read_bytes()
    schema = max(re.findall(rb"[A-Za-z0-9+/=]{200,}", content), key=len)
    changed = base64.b64encode(base64.b64decode(schema).replace(b"Poland", b"+05:30"))
    path.write_bytes(content.replace(schema, changed))
    found = reader(str(path), ITEMS).tables.interactions.collect(["timestamp"], "error", Counter())
    assert (found["timestamp"] // 10**6).to_list() == CLICKS["ts"].to_list()


DAYS = ["2024-03-01", "2024-03-02", "2024-03-02", "2024-03-05"]
SECONDS_ON_PAGE = [31, 4, 31, 7]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl", "json"])
def test_of_several_usual_names_the_likely_times_are_taken(kind: str, tmp_path: Path) -> None:
    log = CLICKS.drop("ts").with_columns(pl.Series("Date", DAYS), pl.Series("time", SECONDS_ON_PAGE))
    path = write_all(tmp_path, log, "clicks")[kind]
    tables = reader(path, ITEMS).tables
    assert [row["timestamp"] for row in collected(tables)[0]][:2] == [1_709_251_200_000_000, 1_709_337_600_000_000]
    assert "timestamp = Date (dates and times, 2024-03-01 to 2024-03-05); not used: position, time" in tables.notes[0]
    assert tables.doubts == ()


def test_of_several_likely_times_the_more_usual_name_counts_and_a_named_column_always() -> None:
    log = CLICKS.with_columns(pl.Series("date", DAYS), pl.Series("time", SECONDS_ON_PAGE))
    assert reader(log, ITEMS).found["timestamp"] == "ts"
    assert reader(log, ITEMS, columns=TableColumns(timestamp="time")).found["timestamp"] == "time"
    unlikely = CLICKS.with_columns(ts=pl.Series([1, 2, 3, 4]), time=pl.Series(SECONDS_ON_PAGE))
    assert reader(unlikely, ITEMS).found["timestamp"] == "ts"


@pytest.mark.parametrize("times", [SECONDS_ON_PAGE, [20240501, 20240430, 20240430, 20240430], [0.5, 0.25, 0.5, 1.0]])
def test_times_within_1970_that_count_nothing_are_doubted(times: list[float]) -> None:
    tables = reader(CLICKS.with_columns(ts=pl.Series(times)), ITEMS).tables
    (doubt,) = tables.doubts
    assert doubt.startswith("data.interactions, column ts: most times are within 1970: is it a duration")


def test_times_of_which_half_are_likely_are_doubted() -> None:
    """None of the others is a bad row, because no form is that of most."""
    (doubt,) = reader(CLICKS.with_columns(ts=pl.Series([0, 1_700_000_000, 0, 1_700_000_001])), ITEMS).tables.doubts
    assert "only 50% of the times, which are 1970-01-01 to 2023-11-14, are from 1980 to 2100. Fix: " in doubt


@pytest.mark.parametrize("times", [[1, 2, 1, 2], [4, 1, 3, 2], [1, 1, 2, 2], [1_700_000_000] * 4, [0, None, None, 5]])
def test_counters_and_dates_are_not_doubted(times: list[int | None]) -> None:
    assert reader(CLICKS.with_columns(ts=pl.Series(times)), ITEMS).tables.doubts == ()


@pytest.mark.parametrize("nothing", ["NULL", "nan", "\\N", "Heat|NULL"])
def test_what_says_nothing_is_no_title_of_a_history(nothing: str) -> None:
    ready = pl.DataFrame(
        {
            "user": ["a", "b"],
            "liked": [nothing, "Up"],
            "disliked": ["Seven", "None"],
            "target_title": "Congo",
            "label": 1,
        }
    )
    first, second = collected(reader(ready).tables)[0]
    assert first["history"] == (["Heat", "Seven"] if "Heat" in nothing else ["Seven"])
    assert (second["history"], second["history_liked"]) == (["Up"], [True])


@pytest.mark.parametrize("odd", [["T2", "T3"], {"en": "T2"}, [{"en": "T2"}]])
def test_a_title_that_is_an_object_or_a_list_unlike_others_is_a_bad_row(odd: object, tmp_path: Path) -> None:
    rows = [{"sku": number, "name": name} for number, name in enumerate(["T0", "[REC]", odd, "[2020]", "Up"])]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = reader(CLICKS, path).tables
    with pytest.raises(DataError, match=r"title is an object or a list, .*row 3, column name: "):
        tables.items.collect(["title"], "error", Counter())
    assert tables.items.collect(["title"], "skip", Counter())["title"].to_list() == ["T0", "[REC]", "[2020]", "Up"]


def test_a_title_of_bytes_that_are_no_text_is_a_bad_row() -> None:
    """As Hive writes what was Latin-1. It is not shown in hexadecimal, as ids are."""
    names = [name.encode("latin-1") for name in ("Amelie", "Amélie", "Up")]
    tables = reader(CLICKS, ITEMS.with_columns(name=pl.Series(names))).tables
    with pytest.raises(DataError, match=r"undecodable bytes, .*row 2, column name: "):
        tables.items.collect(["title"], "error", Counter())
    assert tables.items.collect(["title"], "skip", Counter())["title"].to_list() == ["Amelie", "Up"]


@pytest.mark.parametrize("times", [pl.Series([1.7e9] * 4, dtype=pl.Float32), pl.Series(["1.70089E+12"] * 4)])
def test_times_that_lost_their_last_digits_are_bad_rows(times: pl.Series) -> None:
    table = reader(CLICKS.with_columns(ts=times), ITEMS).tables.interactions
    with pytest.raises(DataError, match=r"timestamp is a number that lost its last digits, .*row 1, column ts: "):
        table.collect(["timestamp"], "error", Counter())


@pytest.mark.parametrize("column", ["ts", "user_id"])
def test_numbers_that_lost_their_digits_in_one_of_several_files_are_bad_rows(column: str, tmp_path: Path) -> None:
    """There they are 32-bit floats; in all files together they are longer ones."""
    numbers = CLICKS.with_columns(user_id=pl.Series([100_000_001, 100_000_001, 7, 8]))
    numbers[:2].write_parquet(tmp_path / "a.parquet")
    short = numbers[2:].with_columns(pl.col(column).cast(pl.Float32), pl.col("position").cast(pl.Float32))
    short.write_parquet(tmp_path / "b.parquet")
    table, skipped = reader(str(tmp_path), ITEMS).tables.interactions, Counter[str]()
    kept = table.collect(["user", "timestamp"], "skip", skipped)
    if column == "ts":
        assert kept["user"].to_list() == ["100000001"] * 2
        assert skipped == {f"{tmp_path.name}: timestamp is a number that lost its last digits": 2}
        with pytest.raises(DataError, match=r"lost its last digits, .*b\.parquet, row 1, column ts"):
            table.collect(["timestamp"], "error", Counter())
    else:
        assert kept["user"].to_list() == ["100000001", "100000001", "7", "8"]  # small ones have all their digits


@pytest.mark.parametrize("head", ["user_id,item_id", '"user_id","item_id"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_header_in_the_middle_is_a_bad_row(end: str, head: str, tmp_path: Path) -> None:
    """As `cat` leaves it; without labels and times, it would be a user of an item."""
    rows = "ann,a", "bob,b"
    (tmp_path / "all.csv").write_bytes(end.join([head, rows[0], "\ufeff" + head, rows[1], head, ""]).encode())
    table, skipped = reader(str(tmp_path / "all.csv"), is_timed=False).tables.interactions, Counter[str]()
    assert table.collect(["user", "item"], "skip", skipped).rows() == [("ann", "a"), ("bob", "b")]
    assert skipped == {"all.csv: the header again": 2}
    with pytest.raises(DataError, match=r"^the header again, .*all\.csv, row 3, column all: .* Fix: delete this line"):
        table.collect(["user"], "error", Counter())


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([0.5, 1.0, 2.0, 3.5], dtype=pl.Float32),
        pl.Series(["1.7000001e+7"] * 4),
        pl.Series(["1.7006881E9", "1.700688137E9", "1.7E9", "1.70068812E9"]),  # as Java writes doubles
        pl.Series(["1.700688139E12", "1.7006881395E12", "1.7E12", "1.700688E12"]),
        pl.Series(["1.7006112E9", "1.7006976E9", "1.7006112E9", "1.7006976E9"]),  # whole days
        pl.Series(["1.7006112e+18", "1.70061126e+18"] * 2),  # whole minutes as pandas writes nanoseconds
        pl.Series([1_700_611_200.0] * 4, dtype=pl.Float32),
    ],
)
def test_times_with_all_their_digits_are_good(times: pl.Series) -> None:
    table = reader(CLICKS.with_columns(ts=times), ITEMS).tables.interactions
    assert table.collect(["timestamp"], "error", Counter()).height == 4


def mixed(exact: int, with_exponent: list[str]) -> pl.Series:
    """Milliseconds, some of which have an exponent."""
    return pl.Series([*with_exponent, *(str(1_700_688_137_211 + 977 * i) for i in range(exact))])


@pytest.mark.parametrize(
    ("times", "bad"),
    [
        (mixed(99, ["1.700688e+12"]), 0),  # R writes what is shorter
        (mixed(9, ["1.700688e+12", "1.700687e+12"]), 2),
        (mixed(99, ["1.7e+12"]), 0),  # one is no part of a log that a spreadsheet has saved
        (mixed(200, ["1.70069E+12"] * 4), 4),
        (mixed(300, ["1.70069E+09", "1.70071E+09"]), 2),  # no program writes these shorter so
        (pl.Series(["1619913600", "1.62e+09", "1620086400"] * 9), 0),  # as R writes the days of a week
        (pl.Series(["1699999999", "1.7e+09", "1700000001"] * 3), 0),  # three rows in each second
        (mixed(50, ["1.70069E+12", "1.70E+12"] * 50), 100),
        (pl.Series(["1700611200000", "1.701216e+12"] * 4), 0),  # days
        (pl.Series(["1699574400000", "1.69975E+12", "1699833600000"] * 3), 3),  # one of days that is none
        (pl.Series(["1699574400", "1.5E+09", "1699833600"] * 3), 3),  # a whole minute
        (pl.Series(["1.71E+12"] * 8), 8),  # a whole number of minutes, too
    ],
)
def test_times_with_an_exponent_beside_others_are_good_if_a_program_may_have_written_them(
    times: pl.Series, bad: int
) -> None:
    log = pl.concat([CLICKS.drop("ts")] * -(-len(times) // CLICKS.height)).head(len(times)).with_columns(ts=times)
    table = reader(log, ITEMS).tables.interactions
    skipped = Counter[str]()
    assert table.collect(["timestamp"], "skip", skipped).height == len(times) - bad
    assert skipped.total() == bad


def test_all_splits_take_their_times_from_one_column(tmp_path: Path) -> None:
    """Even where another one looks as good in a split."""
    log = CLICKS.drop("ts").with_columns(pl.Series("date", DAYS), pl.Series("time", SECONDS_ON_PAGE))
    later = log.with_columns(time=pl.Series([1_709_251_200 + number for number in range(4)]))
    options: dict[str, Any] = {"columns": TableColumns(), "features": None, "is_timed": True}
    found = TableReader({"train": log, "val": log, "test": later}, ITEMS, None, **options)._found
    assert {columns["timestamp"] for columns in found.values()} == {"date"}


@pytest.mark.parametrize("kind", ["jsonl", "json", "jsonl.gz", "parquet"])
@pytest.mark.parametrize(("role", "nested"), [("user", {"id": 7}), ("timestamp", {"$date": 5}), ("title", ["Heat"])])
def test_nested_values_are_no_ids_times_or_titles(role: str, nested: Any, kind: str, tmp_path: Path) -> None:
    name = {"user": "user_id", "timestamp": "ts", "title": "name"}[role]
    clicks, items = (
        table.with_columns(pl.Series(name, [nested] * table.height)) if name in table.columns else table
        for table in (CLICKS, ITEMS)
    )
    paths = write_all(tmp_path, clicks, "clicks"), write_all(tmp_path, items, "items")
    with pytest.raises(DataError, match=rf"data\.columns\.{role}: column {name} is of type (Struct|List).*Fix: write"):
        reader(paths[0][kind], paths[1][kind]).tables  # noqa: B018


def test_lists_of_json_lines_are_histories_and_empty_ones_no_values(tmp_path: Path) -> None:
    rows = [{"user": "ann", "liked": ["Heat"], "disliked": [], "target_title": "Seven", "label": 1, "extra": {"a": 1}}]
    rows.append({"user": [], "liked": "Heat|Fargo", "disliked": [], "target_title": "Up", "label": 0})
    (tmp_path / "ready.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {"liked", "disliked", "user"} <= reader(tmp_path / "ready.jsonl").found.keys()


def test_messages_name_the_first_of_very_many_columns(tmp_path: Path) -> None:
    """And of a long one its beginning."""
    (tmp_path / "log.jsonl").write_text(json.dumps({"x" * 9000: 1} | {f"key{i}": i for i in range(5000)}))
    for columns in (TableColumns(), TableColumns(item="sku")):
        with pytest.raises(DataError, match=r"x, key0, .* and 4,981 more\. Fix: ") as error:
            reader(tmp_path / "log.jsonl", columns=columns).tables  # noqa: B018
        assert len(str(error.value)) < 1000


def test_messages_show_the_beginning_of_a_long_line(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("word " * 100_000)
    with pytest.raises(DataError, match=r"no names of columns in .*row 1: 'word .*Fix: begin") as error:
        reader(tmp_path / "log.csv").tables  # noqa: B018
    assert len(str(error.value)) < 500
    with pytest.raises(DataError, match="no time has a form that can be read, such as 'noon noon") as error:
        reader(CLICKS.with_columns(ts=pl.lit("noon " * 9000)), ITEMS).tables  # noqa: B018
    assert len(str(error.value)) < 500


def test_a_key_that_the_tables_call_differently_must_have_one_name() -> None:
    items = ITEMS.rename({"sku": "code"})
    with pytest.raises(
        DataError, match=r"data\.items: there is no column 'sku'.* has code, name.*Fix: rename the column of ids to sku"
    ):
        reader(CLICKS, items).tables  # noqa: B018
    with pytest.raises(
        DataError,
        match=r"item: there is no column 'code'.* has user_id, sku.*tables need one name for it, so",
    ):
        reader(CLICKS, items, columns=TableColumns(item="code")).tables  # noqa: B018
    users = pl.DataFrame({"who": ["ann"], "age": [3]})
    with pytest.raises(DataError, match=r"data\.users: there is no column 'user_id'.*Fix: rename .* to user_id"):
        reader(CLICKS, ITEMS, users).tables  # noqa: B018
