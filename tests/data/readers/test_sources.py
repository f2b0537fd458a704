"""Which files of a folder are read, and files that hold no table."""

import gzip
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from readers.test_table import CLICKS, ITEMS, collected, reader

from expctr.data.readers.columns import TableColumns
from expctr.data.readers.named_files import find_files, linked_folders
from expctr.data.readers.sources import open_source
from expctr.errors import DataError


def test_of_a_file_and_its_compressed_copy_the_plain_one_is_read_and_the_notes_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "day").mkdir(parents=True)
    CLICKS.write_ndjson(folder / "day" / "a.jsonl")
    (folder / "day" / "a.jsonl.gz").write_bytes(gzip.compress((folder / "day" / "a.jsonl").read_bytes()))
    (folder / "day" / "part-1").write_text("x")
    (folder / "_SUCCESS").write_text("")
    tables = reader(str(folder)).tables
    assert collected(tables) == collected(reader(CLICKS).tables)
    assert tables.notes[-1] == "not used: file day/a.jsonl.gz, day/part-1"


@pytest.mark.parametrize("pattern", ["", "log*", "**/*"])
def test_a_glob_reads_no_compressed_copies_and_other_copies_are_a_doubt(pattern: str, tmp_path: Path) -> None:
    content = CLICKS.write_csv(tmp_path / "log 1.csv") or (tmp_path / "log 1.csv").read_bytes()
    (tmp_path / "log 1.csv.gz").write_bytes(gzip.compress(content))
    header = content[: content.index(b"\n") + 1]
    for name in ("log 2.csv", "log 3.csv"):  # parts without rows are no copies
        (tmp_path / name).write_bytes(header)
    read = reader(str(tmp_path / pattern)).tables
    assert (read.notes[-1], read.doubts) == ("not used: file log 1.csv.gz", ())
    (tmp_path / "log 1.csv.gz").write_bytes(gzip.compress(content + b"ann,a,1,1700000000,1\n"))  # yesterday's
    (doubt,) = reader(str(tmp_path / pattern)).tables.doubts
    assert "log 1.csv.gz is left out as a compressed copy of log 1.csv, which has another size. Fix: " in doubt
    (tmp_path / "log 1.csv.gz").write_bytes(gzip.compress(content[:9]) + gzip.compress(content[9:]))  # of two members
    assert not reader(str(tmp_path / pattern)).tables.doubts
    for damaged in (b"", gzip.compress(content * 2)[:-9]):
        (tmp_path / "log 1.csv.gz").write_bytes(damaged)
        assert len(reader(str(tmp_path / pattern)).tables.doubts) == 1
    (tmp_path / "log 1.csv.gz").unlink()
    os.mkfifo(tmp_path / "log 1.csv.gz")  # which would be waited for
    assert not reader(str(tmp_path / pattern)).tables.doubts
    (tmp_path / "log 1.csv.gz").unlink()
    (tmp_path / "log 1.csv.gz").write_bytes(gzip.compress(content))
    assert collected(read)[0] == collected(reader(CLICKS).tables)[0]
    for day in ("day=1", "day=2"):  # nor are equal ones of two days
        (tmp_path / day).mkdir()
        (tmp_path / day / "log.csv").write_bytes(header + b"ann,a,1,1700000000,1\n")
    assert not reader(str(tmp_path / "*" / "*.csv")).tables.doubts
    (tmp_path / "log 1 - copy.csv").write_bytes(content)
    (doubt,) = reader(str(tmp_path / (pattern or "*.csv"))).tables.doubts
    assert "log 1 - copy.csv and " in doubt
    assert "log 1.csv have the same content, so these rows are read twice" in doubt


def test_links_to_folders_are_not_read_and_the_notes_say_so(tmp_path: Path) -> None:
    """One could lead back to a folder above it. Links to files are read."""
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    (folder / "day").mkdir(parents=True)
    elsewhere.mkdir()
    CLICKS.write_csv(elsewhere / "a.csv")
    (folder / "day" / "more").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"no table in .*in; day/more is a link to a folder, and not read\. Fix: name"):
        reader(str(folder)).tables  # noqa: B018
    (folder / "b.csv").symlink_to(elsewhere / "a.csv")
    tables = reader(str(folder)).tables
    assert collected(tables) == collected(reader(CLICKS).tables)
    assert tables.notes[-1] == "not read: link to a folder day/more"


def test_locks_of_spreadsheets_are_no_tables(tmp_path: Path) -> None:
    CLICKS.write_csv(tmp_path / "clicks.csv")
    for name in ("~$clicks.csv", "~$clicks.xlsx", ".DS_Store", ".~lock.clicks.csv#"):
        (tmp_path / name).write_bytes(b"\x03Ann\x00")
    for named in (tmp_path, tmp_path / "*"):
        tables = reader(str(named)).tables
        assert collected(tables) == collected(reader(CLICKS).tables)
        assert tables.notes[-1] == "not used: file ~$clicks.csv, ~$clicks.xlsx"


@pytest.mark.parametrize("head", [b"PK\x03\x04....[Content_Types].xml", b"\xd0\xcf\x11\xe0...."])
def test_of_a_workbook_the_way_to_csv_is_shown(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "clicks.xlsx").write_bytes(head)
    (tmp_path / "~$clicks.xlsx").write_bytes(b"x")
    for named in (tmp_path, tmp_path / "clicks.xlsx", tmp_path / "*.xlsx"):
        with pytest.raises(DataError, match=r"clicks\.xlsx\. Fix: .*CSV .*pandas\.read_excel\(\.\.\.\)\.to_csv"):
            reader(str(named)).tables  # noqa: B018


def test_a_file_of_too_many_columns_says_how_many(tmp_path: Path) -> None:
    path, wide = tmp_path / "clicks.csv", CLICKS.with_columns(pl.lit("x").alias(f"f{i}") for i in range(996))
    wide.write_csv(path)
    with pytest.raises(
        DataError, match=r"^1,001 columns, .*clicks\.csv, row 1, and at most 1,000 are read\. Fix: keep"
    ):
        reader(str(path)).tables  # noqa: B018
    wide.drop("f0").write_csv(path)
    assert reader(str(path)).found == reader(CLICKS).found


def test_headers_that_differ_in_case_only_stop_who_uses_them(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    CLICKS.rename({"position": "Ad"}).with_columns(pl.lit("x").alias("a.d"), AD=pl.lit("y")).write_csv(path)
    named = reader(str(path), features={"a.d": "category"}).tables.interactions
    assert named.frame.collect()["context_a.d"].to_list() == ["x"] * 4
    CLICKS.with_columns(TS=pl.lit(1)).write_csv(path)
    with pytest.raises(DataError, match=r"timestamp: columns ts and TS .* Fix: name it in data.columns.timestamp"):
        reader(str(path)).tables  # noqa: B018
    chosen = reader(str(path), columns=TableColumns(timestamp="ts")).tables
    assert collected(chosen) == collected(reader(CLICKS).tables)


@pytest.mark.parametrize("first", ["sep=;", "# from the shop"])
def test_a_first_line_without_names_is_shown(tmp_path: Path, first: str) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text(f"{first}\n{CLICKS.write_csv(separator=';')}")
    with pytest.raises(DataError, match=rf"^no names of columns in .*clicks\.csv, row 1: '{first.partition(';')[0]}'"):
        reader(str(path)).tables  # noqa: B018


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_among_others_is_said_to_be_empty(tmp_path: Path, content: str) -> None:
    CLICKS.write_csv(tmp_path / "part-0.csv")
    (tmp_path / "part-1.csv").write_text(content)
    with pytest.raises(DataError, match=r"^no header and no rows: .*part-1\.csv is empty\. Fix: delete it"):
        reader(str(tmp_path)).tables  # noqa: B018


@pytest.mark.parametrize("orient", ["columns", "index", "split", "wrapped"])
def test_json_of_one_object_is_no_row(tmp_path: Path, orient: str) -> None:
    """As pandas writes it by default, and as web interfaces wrap it, on one line or on many."""
    rows = CLICKS.to_dicts()
    written: dict[str, object] = {
        "columns": {name: dict(enumerate(CLICKS[name])) for name in CLICKS.columns},
        "index": dict(enumerate(rows)),
        "split": {"columns": CLICKS.columns, "data": [[*row.values()] for row in rows]},
        "wrapped": {"data": rows},
    }
    path = tmp_path / "clicks.json"
    for indent in (None, 2):
        path.write_text(json.dumps(written[orient], indent=indent))
        with pytest.raises(DataError, match=r"clicks\.json holds one object .* no rows. Fix: .*orient='records'"):
            reader(str(path)).tables  # noqa: B018


def test_numbers_that_only_python_writes_are_read_in_both_kinds_of_json(tmp_path: Path) -> None:
    rows = [{"sku": "a", "name": "NaN: [Infinity]", "price": math.nan}, {"sku": "b", "price": math.inf}]
    rows += [{"sku": "c", "price": 2.5}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("list.json", "lines.jsonl"):
        items = reader(CLICKS, str(tmp_path / name), features={"price": "number"}).tables.items
        assert items.collect(["price"], "error", Counter())["price"].to_list() == [None, None, 2.5]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.csv", ["1.csv", "in/2.csv"]),
        ("**", ["1.csv", "in/2.csv"]),
        ("**.csv", ["1.csv"]),
        (".h*/*", [".h/3.csv"]),
    ],
)
def test_a_glob_of_folders_in_folders_follows_no_links(pattern: str, found: list[str], tmp_path: Path) -> None:
    """Two links to the folder that they are in have paths without end."""
    for name in ("1.csv", "in/2.csv", ".h/3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("user,item\nu,i\n")
    for name in ("left", "right", "in/up"):
        (tmp_path / name).symlink_to(tmp_path)
    named = str(tmp_path / pattern)
    assert [str(file.relative_to(tmp_path)) for file in find_files(named, "data.path")] == found
    assert linked_folders(named) == (["in/up", "left", "right"] if "**/" in pattern or pattern == "**" else [])


@pytest.mark.parametrize("pattern", ["", "*/*.csv", "**/*.csv", "day=[12]/a.csv"])
def test_a_folder_of_parts_that_may_not_be_read_is_named(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in (1, 2):
        (tmp_path / "log" / f"day={day}").mkdir(parents=True)
        (tmp_path / "log" / f"day={day}" / "a.csv").write_text("user,item\nu,i\n")
    named, closed, scan, stat = str(tmp_path / "log" / pattern), tmp_path / "log" / "day=2", os.scandir, Path.lstat

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def lstat(path: Path) -> os.stat_result:
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "lstat", lstat)
    with pytest.raises(DataError, match=r"cannot read .*day=2.*: Permission denied\. Fix: check its permissions"):
        find_files(named, "data.interactions")
    assert len(find_files(str(tmp_path / "log" / "*1" / "*.csv"), "data.interactions")) == 1
    assert linked_folders(str(tmp_path / "log" / "*1" / "**")) == []


@pytest.mark.parametrize("pattern", ["", "*.csv", "**"])
def test_a_part_that_is_a_link_to_nothing_is_named(pattern: str, tmp_path: Path) -> None:
    CLICKS.write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").symlink_to("/mnt/gone/b.csv")
    with pytest.raises(DataError, match=r"b\.csv is a link to /mnt/gone/b\.csv, which is not there\. Fix: mount"):
        find_files(str(tmp_path / pattern), "data.interactions")


@pytest.mark.parametrize("pattern", ["", "*.csv", "**/*.csv"])
def test_a_file_by_several_names_is_read_once(pattern: str, tmp_path: Path) -> None:
    for name in ("b.csv", "c.csv"):
        CLICKS.write_csv(tmp_path / name)
    (tmp_path / "a.csv").symlink_to("b.csv")
    (tmp_path / "z.csv").symlink_to(tmp_path / "b.csv")
    read = reader(str(tmp_path / pattern))
    assert [file.name for file in read.files or ()] == ["b.csv", "c.csv"]
    assert read.tables.notes[-1] == "not used: file a.csv, z.csv"


def test_a_glob_below_a_folder_with_brackets(tmp_path: Path) -> None:
    (tmp_path / "[1] log" / "day=1").mkdir(parents=True)
    CLICKS.write_parquet(tmp_path / "[1] log" / "day=1" / "a.parquet")
    read = reader(str(tmp_path / "[1] log" / "*" / "*.parquet"))
    assert collected(read.tables)[0] == collected(reader(CLICKS).tables)[0]
    assert [note.rpartition(": ")[2] for note in read.notes] == ["position, day"]


@pytest.mark.parametrize("prices", ["1,50 2,00 3,50", "$1.99 $2 $1,000.00", "1 2 —", "5% 7% 9%"])
def test_numbers_in_another_spelling_are_shown(tmp_path: Path, prices: str) -> None:
    ITEMS.select("sku", "name", price=pl.Series(prices.split())).write_csv(tmp_path / "items.csv")
    read = reader(CLICKS, str(tmp_path / "items.csv"))
    read.tables  # noqa: B018
    odd = next(price for price in prices.split() if not price.isdigit())
    assert read.notes[-1].endswith(f"features price (category; not a number: {odd!r})")


def test_ids_that_a_spreadsheet_rounded_are_refused() -> None:
    log = CLICKS.with_columns(user_id=pl.Series(["1.23E+12", "E+5", "1E5", "2.0"]))
    with pytest.raises(DataError, match=r"lost its last digits, data.interactions, row 1, column user_id"):
        collected(reader(log).tables)
    assert len(collected(reader(log[1:]).tables)[0]) == 3


@pytest.mark.parametrize("text", ["\n", "[\n]", '{\n  "user_id": 1\n}\n', "{}\n{}"])
def test_json_without_rows_is_said_to_have_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"^no rows in .*clicks\.json"):
        reader(str(path)).tables  # noqa: B018


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_quotes_around_all_values_are_none_of_them(separator: str, tmp_path: Path) -> None:
    """As R and pandas write them, or around the values of one column alone."""
    odd = ITEMS.drop("tags").with_columns(name=pl.Series(['The "Big" One', f"a{separator}b", "c\nd"]))
    log, items = tmp_path / "clicks.tsv", tmp_path / "items.txt"
    CLICKS.write_csv(log, separator=separator, quote_style="always")
    odd.write_csv(items, separator=separator, quote_style="non_numeric")
    plain = reader(CLICKS, odd.with_columns(pl.col("name").str.replace("\n", " ")))
    found = collected(reader(str(log), str(items)).tables)
    assert found[0] == collected(plain.tables)[0]
    assert [row["title"] for row in found[1]] == ['The "Big" One', f"a{separator}b", "c d"]
    titles = pl.format('"{}"', "name")
    ITEMS.select("sku", titles.alias("name")).write_csv(items, separator=separator, quote_style="never")
    assert [row["title"] for row in collected(reader(str(log), str(items)).tables)[1]] == ["Anvil", "Bell", "Cup"]


def test_quotes_around_some_values_are_part_of_them(tmp_path: Path) -> None:
    log, items = tmp_path / "clicks.tsv", tmp_path / "items.tsv"
    CLICKS.write_csv(log, separator="\t")
    items.write_text('sku\tname\na\t"Heroes"\nb\tHeat\nc\t"M" and more\n')
    found = collected(reader(str(log), str(items)).tables)[1]
    assert [row["title"] for row in found] == ['"Heroes"', "Heat", '"M" and more']


@pytest.mark.parametrize(("separator", "missing"), [("\t", "\\N"), ("|", ""), ("|", "NULL")])
def test_quotes_around_all_values_that_are_there_are_none_of_them(separator: str, missing: str, tmp_path: Path) -> None:
    """As MySQL and Postgres write them: without quotes around a value that is missing."""
    log, items = tmp_path / "clicks.tsv", tmp_path / "items.tsv"
    CLICKS.write_csv(log, separator="\t")
    rows = ["sku~name", f"a~{missing}", 'b~"Bell"', 'c~"Cup"']
    items.write_text("\n".join(rows).replace("~", separator))
    found = collected(reader(str(log), str(items)).tables)[1]
    assert [row["title"] for row in found] == [None, "Bell", "Cup"]


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_quotes_that_make_the_rows_as_wide_as_the_header_are_no_values(separator: str, tmp_path: Path) -> None:
    log, items = tmp_path / "clicks.tsv", tmp_path / "items.tsv"
    CLICKS.write_csv(log, separator="\t")
    rows = ["sku~name~brand", 'a~"An~vil"~x', 'b~"Be~ll"~x', 'c~"C~up"~x']
    items.write_text("\n".join(rows).replace("~", separator))
    found = collected(reader(str(log), str(items)).tables)[1]
    assert [row["title"] for row in found] == [name.replace("~", separator) for name in ("An~vil", "Be~ll", "C~up")]


def test_a_file_with_two_names_has_its_rows_once(tmp_path: Path) -> None:
    CLICKS.write_csv(tmp_path / "a.csv")
    (tmp_path / "latest.csv").hardlink_to(tmp_path / "a.csv")
    assert [path.name for path in find_files(str(tmp_path), "data.interactions")] == ["a.csv"]


def test_a_file_in_two_folders_that_are_values_has_its_rows_in_both(tmp_path: Path) -> None:
    """Tools that save space make one file of equal parts."""
    for day in ("day=1", "day=2"):
        (tmp_path / day).mkdir()
    CLICKS.write_csv(tmp_path / "day=1" / "part.csv")
    (tmp_path / "day=2" / "part.csv").hardlink_to(tmp_path / "day=1" / "part.csv")
    assert len(find_files(str(tmp_path), "data.interactions")) == 2


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_one_value_with_doubled_quotes_shows_that_quotes_are_no_part_of_values(separator: str, tmp_path: Path) -> None:
    """As pandas writes a table with tabs: only where it must."""
    items = ITEMS.select("sku", name=pl.Series(["Anvil", 'The "Bell" film', '12" disc']))
    items.write_csv(tmp_path / "items.tsv", separator=separator, quote_style="necessary")
    found = collected(reader(CLICKS, str(tmp_path / "items.tsv")).tables)[1]
    assert [row["title"] for row in found] == ["Anvil", 'The "Bell" film', '12" disc']


@pytest.mark.parametrize("separator", ["\t", "|"])
def test_doubled_quotes_show_so_wherever_they_are(separator: str, tmp_path: Path) -> None:
    """Unless more values have quotes as no program writes them that puts values in quotes."""
    titles = [*(f"Film {i}" for i in range(40)), 'The "Bell" film', f"a{separator}b"]
    items = pl.DataFrame({"sku": [f"i{i:02}" for i in range(42)], "name": titles})
    path = tmp_path / "items.tsv"
    items.write_csv(path, separator=separator, quote_style="necessary")
    assert [row["title"] for row in collected(reader(CLICKS, str(path)).tables)[1]] == titles
    described = items.with_columns(text=pl.lit('one\nthe "best" of year\ntwo'))
    described.write_csv(path, separator=separator, quote_style="necessary")
    assert [row["title"] for row in collected(reader(CLICKS, str(path)).tables)[1]] == titles
    items.write_csv(path, separator=separator, quote_style="necessary")
    plain = "\n".join(f'i{i}{separator}12" disc {i}' for i in range(42, 45))
    path.write_text(path.read_text().replace(f'"a{separator}b"', "ab") + plain + "\n")
    found = [row["title"] for row in collected(reader(CLICKS, str(path)).tables)[1]]
    assert found[40] == '"The ""Bell"" film"'
    assert found[-3:] == [f'12" disc {i}' for i in range(42, 45)]


def test_a_blank_before_a_quote_is_no_part_of_a_value(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text('sku, "name", brand\n"a", "Heat, ""the"" film", x\n"b",  "Up" and away, x\n')
    found = collected(reader(CLICKS, str(items)).tables)[1]
    assert [row["title"] for row in found] == ['Heat, "the" film', '"Up" and away']


@pytest.mark.parametrize("odd", [{"id": "u"}, ["u"], [7], {}, [[1]]])
@pytest.mark.parametrize("column", ["user", "item"])
def test_an_id_that_is_an_object_or_a_list_unlike_others_is_a_bad_row(column: str, odd: object, tmp_path: Path) -> None:
    rows = [{"user": f"u{i}", "item": f"[i{i}]", "ts": i} for i in range(5)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {**rows[0], column: odd}])))
    table = reader(str(path)).tables.interactions
    with pytest.raises(DataError, match=rf"id is an object or a list, .*row 6, column {column}: .*Fix: write the id"):
        table.collect(["user"], "error", Counter())
    assert table.collect(["user"], "skip", Counter()).height == 5
    path.write_text("\n".join(json.dumps({**row, "user": json.dumps(["US", row["user"]])}) for row in rows))
    assert reader(str(path)).tables.interactions.collect(["user"], "error", Counter()).height == 5  # they are its ids


def test_a_split_without_rows_is_named() -> None:
    tables = reader(CLICKS.with_columns(split=pl.Series(["train", "test"] * 2)), ITEMS).tables
    with pytest.raises(DataError, match=r"no rows in data.interactions whose split is val\. Fix: "):
        tables.splits["val"].collect(["user"], "error", {})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_click_log_may_have_columns_of_likes_and_dislikes(tmp_path: Path, kind: str) -> None:
    flags = {"like_count": pl.lit(3), "liked": pl.Series([1, 0, 0, 1]), "disliked": pl.Series([0, 0, 1, 0])}
    log = CLICKS.drop("clicked").with_columns(**flags)
    path = tmp_path / f"log.{kind}"
    {"csv": log.write_csv, "jsonl": log.write_ndjson, "parquet": log.write_parquet}[kind](path)
    one = reader(str(path))
    assert collected(one.tables)[0] == collected(reader(CLICKS).tables)[0]
    assert one.found["label"] == "liked"


def test_a_time_of_day_is_no_timestamp() -> None:
    log = CLICKS.rename({"ts": "created_at"}).with_columns(time=pl.time(pl.lit(23) - pl.int_range(pl.len()), 30))
    assert reader(log).found["timestamp"] == "created_at"
    with pytest.raises(DataError, match=r"data.columns.timestamp: column time is of type Time"):
        reader(log, columns=TableColumns(timestamp="time")).tables  # noqa: B018


def test_a_name_beside_a_click_may_be_anyones() -> None:
    log = CLICKS.with_columns(Name=pl.lit("Ann Smith"))
    assert reader(log).tables.no_titles
    assert reader(log, columns=TableColumns(title="name")).found["title"] == "Name"


def test_ids_as_floats_are_refused_where_they_lose_digits() -> None:
    log = CLICKS.with_columns(user_id=pl.Series([2.0**53 - 1, 1.0, 2.0, 2.0**54]))
    with pytest.raises(DataError, match=r"lost its last digits, data.interactions, row 4, column user_id"):
        collected(reader(log).tables)
    assert {row["user"] for row in collected(reader(log[:3]).tables)[0]} == {"9007199254740991", "1", "2"}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
@pytest.mark.parametrize("number", ["1", "NaN"])
def test_half_of_a_character_in_json_is_no_fault(tmp_path: Path, kind: str, number: str) -> None:
    rows = [f'{{"A\\ud83d": {number}, "name": "B\\udc00", "tags": ["C\\ud83d"]}}'] * 2
    path = tmp_path / f"x.{kind}"
    path.write_text("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]")
    frame = open_source(path, "data.items").table.frame.collect()
    assert frame["raw.name"][1] == ("B\ufffd" if kind == "json" else "B\0")


@pytest.mark.parametrize("depth", [700, 5000, 100_000])
@pytest.mark.parametrize("form", ['[{{"a": NaN, "b": {}}}]', '[{{"a": 1, "b": {}}}]', '{{"b": {}}}', "[{}]"])
def test_json_nested_deeply_is_a_bad_row_or_one_line(tmp_path: Path, form: str, depth: int) -> None:
    path = tmp_path / ("x.jsonl" if form[0] == "{" else "x.json")
    path.write_text(form.format("[" * depth + "]" * depth) + "\n")
    with suppress(DataError):
        assert open_source(path, "data.items").table.frame.collect().height == 1


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_many_small_parts_are_one_table_and_a_bad_row_is_in_its_part(kind: str, tmp_path: Path) -> None:
    parts = [CLICKS.with_columns(ts=pl.col("ts") + i) for i in range(60)]
    for i, part in enumerate(parts):
        path = tmp_path / f"part-{i:02}.{kind}"
        {"csv": part.write_csv, "jsonl": part.write_ndjson, "parquet": part.write_parquet}[kind](path)
    source = open_source(str(tmp_path), "data.interactions")
    assert source.table.frame.explain().count("DF [") == 1  # in memory, in one piece
    assert len(source.table.files) == 60
    assert collected(reader(str(tmp_path)).tables) == collected(reader(pl.concat(parts)).tables)
    if kind != "parquet":
        bad = {
            "csv": "ann,a,maybe,1,1\n",
            "jsonl": '{"user_id": "ann", "sku": "a", "clicked": "maybe", "ts": 1700000000}\n',
        }
        with path.open("a") as file:
            file.write(bad[kind])
        with pytest.raises(DataError, match=rf"part-59\.{kind}, row {6 if kind == 'csv' else 5}, column clicked"):
            collected(reader(str(tmp_path)).tables)
    path.write_bytes(path.read_bytes()[:-3] if kind == "parquet" else b"\n[")
    with pytest.raises(DataError, match=rf"part-59\.{kind}|several formats"):
        collected(reader(str(tmp_path)).tables)
