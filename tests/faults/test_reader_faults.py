"""Every file of every layout, damaged in every way: a clear error or counted skips, and healthy rows unchanged.

The place of the damage is drawn from the names of file and damage, so each case is the same on every machine.
"""

import codecs
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from expctr.data.new_users import read_new_users
from expctr.data.readers import amazon, bookcrossing, movielens
from expctr.data.readers.bad_rows import OnBadRow
from expctr.data.readers.base import RawTable, RawTables
from expctr.errors import DataError

MODES: tuple[OnBadRow, OnBadRow] = ("error", "skip")
LIMIT = 20  # seconds for one case, which takes some milliseconds
ROWS = range(1, 25)
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in damaged Python literals
FLAGS = "|".join("01"[flag == 5] for flag in range(19))


@dataclass(frozen=True)
class Layout:
    """A healthy dataset: the lines of each file, the ratings first, then the items and the users."""

    read: Callable[[Path], RawTables]
    files: Mapping[str, Sequence[str]]
    headed: bool = True
    encoding: str = "utf-8"


def csv(header: str, line: str, delimiter: str = ",") -> list[str]:
    """A header and 24 lines, `{i}` in which is the line's number."""
    return [text.format(i=i).replace("\t", delimiter) for i, text in enumerate([header] + [line] * len(ROWS))]


def lines(line: str) -> list[str]:
    return [line.format(i=i) for i in ROWS]


def reviews(**keys: str) -> list[str]:
    values = {"user": "A{i}", "item": "B{i}", "rating": 5.0, "time": 1370000000, "text": 'It\'s "fine", é.'}
    return [json.dumps({key: _numbered(values[ours], i) for ours, key in keys.items()}) for i in ROWS]


def metadata(line: Mapping[str, object], write: Callable[[object], str] = json.dumps) -> list[str]:
    return [write({key: _numbered(value, i) for key, value in line.items()}) for i in ROWS]


def _numbered(value: object, i: int) -> object:
    return value.format(i=i) if isinstance(value, str) else value


OF_2014 = reviews(user="reviewerID", item="asin", rating="overall", time="unixReviewTime", text="reviewText")
OF_2023 = reviews(user="user_id", item="parent_asin", rating="rating", time="timestamp", text="text")
META_2014 = metadata({"asin": "B{i}", "title": "Cats' {i}", "categories": [["Books", "Pets"], ["Books"]]}, repr)
META_2018 = metadata({"asin": "B{i}", "title": "Café {i}", "category": ["Books", "Pets"], "brand": "Zoë"})
META_2023 = metadata({"parent_asin": "B{i}", "title": "Cats {i}", "categories": ["Books"], "store": "A (Author)"})

LAYOUTS = {
    "ML-100K": Layout(
        movielens.read,
        {
            "u.data": lines("{i}\t{i}\t3\t881250949"),
            "u.item": lines(f"{{i}}|Café, the {{i}} (1995)|01-Jan-1995||http://us.imdb.com/M?x|{FLAGS}"),
            "u.user": lines("{i}|25|M|writer|40206"),
        },
        headed=False,
        encoding="latin-1",
    ),
    "ML-1M": Layout(
        movielens.read,
        {
            "ratings.dat": lines("{i}::{i}::5::978300760"),
            "movies.dat": lines("{i}::Café, Le {i} (1975)::Drama|Romance"),
            "users.dat": lines("{i}::F::18::10::48067"),
        },
        headed=False,
        encoding="latin-1",
    ),
    "ML-20M": Layout(
        movielens.read,
        {
            "ratings.csv": csv("userId\tmovieId\trating\ttimestamp", "{i}\t{i}\t3.5\t1112486027"),
            "movies.csv": csv("movieId\ttitle\tgenres", '{i}\t"Say ""Ah"", é {i} (2006)"\tComedy|Drama'),
        },
    ),
    "RecBole": Layout(
        movielens.read,
        {
            "x.inter": csv(
                "user_id:token\titem_id:token\trating:float\ttimestamp:float", "{i}\t{i}\t3\t881250949", "\t"
            ),
            "x.item": csv("item_id:token\tmovie_title:token_seq\tclass:token_seq", '{i}\tToy "é" {i}\tDrama War', "\t"),
            "x.user": csv("user_id:token\tage:token\tgender:token\toccupation:token", "{i}\t49\tM\twriter", "\t"),
        },
    ),
    "BookCrossing": Layout(
        bookcrossing.read,
        {
            "BX-Book-Ratings.csv": csv('"User-ID"\t"ISBN"\t"Book-Rating"', '"{i}"\t"0345{i}X"\t"5"', ";"),
            "BX-Books.csv": csv('"ISBN"\t"Book-Title"\t"Book-Author"', '"0345{i}X"\t"A \\"Café\\"; {i}"\t"K, É."', ";"),
            "BX-Users.csv": csv('"User-ID"\t"Location"\t"Age"', '"{i}"\t"köln, , germany"\t"34"', ";"),
        },
        encoding="latin-1",
    ),
    "Kaggle": Layout(
        bookcrossing.read,
        {
            "Ratings.csv": csv("User-ID\tISBN\tBook-Rating", "{i}\t0155{i}\t5"),
            "Books.csv": csv("ISBN\tTitle\tAuthor\tYear", "0155{i}\tRites {i}\tJ. É.\t2001"),
            "Users.csv": csv("User-ID\tLocation\tAge", '{i}\t"tyler, texas, usa"\t34.0'),
        },
        encoding="latin-1",
    ),
    "Amazon 2014": Layout(amazon.read, {"reviews_Books_5.json": OF_2014, "meta_Books.json": META_2014}, headed=False),
    "Amazon 2018": Layout(amazon.read, {"Books_5.json": OF_2014, "meta_Books.json": META_2018}, headed=False),
    "Amazon 2023": Layout(amazon.read, {"Books.jsonl.gz": OF_2023, "meta_Books.jsonl.gz": META_2023}, headed=False),
}

# Damages of one line: the lines that replace it.
Break = Callable[[bytes, Random], list[bytes]]


def insert(what: bytes, times: int = 1) -> Break:
    def put(line: bytes, random: Random) -> list[bytes]:
        for _ in range(times):
            at = random.randrange(len(line) + 1)
            line = line[:at] + what + line[at:]
        return line.split(b"\n")

    return put


def delimiters(line: bytes, random: Random) -> list[bytes]:
    return insert(max((b"::", b"\t", b";", b",", b"|"), key=line.count) * 300_000)(line, random)


BREAKS: dict[str, Break] = {
    "cut short": lambda line, random: [line[: random.randrange(1, len(line))]],
    "broken UTF-8": insert(b"\xff\xc3"),
    "a quote": insert(b'"'),
    "three quotes": insert(b'"', 3),
    "a line break": insert(b"\n"),
    "a carriage return": insert(b"\r"),
    "a quoted line break": insert(b'"\n"'),
    "NUL": insert(b"\0"),
    "a huge field": insert(b"x" * 150_000),
    "a huge quoted field": insert(b'"' + b"y" * 150_000 + b'"'),
    "many delimiters": delimiters,
    "other line ends": insert("\u2028\x85\x0b\x1c\u200f\x1b[2J".encode()),
    "backslashes": insert(b"\\", 3),
    "random bytes": lambda line, random: [random.randbytes(200).replace(b"\n", b"") or b"?"],
    "half a character": insert(b"\\ud83d"),
    "brackets": insert(b"[" * 50_000),
    "twice": lambda line, _: [line, line],
}

# Damages of a file, from its healthy bytes.
Spoil = Callable[[bytes, Random], bytes]


def flipped(content: bytes, random: Random) -> bytes:
    spoilt = bytearray(content)
    spoilt[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


HARMLESS: dict[str, Spoil] = {
    "CRLF": lambda content, _: content.replace(b"\n", b"\r\n"),
    "blank lines": lambda content, _: b"\r\n\n" + content.replace(b"\n", b"\n\n") + b"\n\n",
    "no last line end": lambda content, _: content.removesuffix(b"\n"),
    "byte order mark": lambda content, _: codecs.BOM_UTF8 + _as_utf8(content),
}
FATAL: dict[str, Spoil] = {
    "empty": lambda *_: b"",
    "zeros": lambda content, _: bytes(len(content)),
    "random bytes": lambda content, random: random.randbytes(len(content)),
    "UTF-16": lambda content, _: _as_utf8(content).decode().encode("utf-16"),
    "carriage returns": lambda content, _: content.replace(b"\n", b"\r"),
    "a picture": lambda *_: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
}


def _as_utf8(content: bytes) -> bytes:
    try:
        return content.decode().encode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()


def cases(damages: Sequence[object], only: Callable[[Layout, str], bool] = lambda *_: True) -> list[object]:
    """Layout, file and damage, for all files or for some."""
    return [
        pytest.param(name, file, damage, id=f"{name}-{file}-{damage}")
        for name, layout in LAYOUTS.items()
        for file in layout.files
        for damage in damages
        if only(layout, file)
    ]


def write(folder: Path, layout: Layout) -> Path:
    for name, text in layout.files.items():
        save(folder / name, "".join(f"{line}\n" for line in text).encode(layout.encoding))
    return folder


def save(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def within(limit: float, call: Callable[[], object]) -> object:
    """What a call returns or raises within the time limit."""
    done: list[object] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:  # a panic in polars is not an Exception
            done.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    assert done, f"no end within {limit} s"
    return done[0]


def read(layout: Layout, folder: Path, file: str, mode: OnBadRow) -> tuple[dict[int, dict[str, object]], int] | str:
    """The good rows of a file by line and the number of skipped rows, or the error message."""

    def table() -> RawTable:
        tables = layout.read(folder)
        return next(t for t in (tables.interactions, tables.items, tables.users) if t and t.path.name == file)

    def call() -> tuple[dict[int, dict[str, object]], int]:
        found, dropped = table(), Counter[str]()
        about = ("place", "line", "problem", "column", "time_text")
        own = [c for c in found.frame.collect_schema().names() if c not in about]
        frame = found.collect(own, mode, dropped)
        return {row["row"]: {**row, "row": 0} for row in frame.to_dicts()}, dropped.total()

    result = within(LIMIT, call)
    if isinstance(result, DataError):
        assert file in str(result)
        assert "Fix: " in str(result)
        assert len(str(result)) < 1500
        return str(result)
    assert isinstance(result, tuple), repr(result)
    return result


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[int, dict[str, object]]]:
    """The rows of a healthy file by their line."""
    folders = {name: write(tmp_path_factory.mktemp("healthy"), layout) for name, layout in LAYOUTS.items()}
    found: dict[tuple[str, str], dict[int, dict[str, object]]] = {}

    def rows(layout: str, file: str) -> dict[int, dict[str, object]]:
        if (layout, file) not in found:
            result = read(LAYOUTS[layout], folders[layout], file, "error")
            assert not isinstance(result, str), result
            found[layout, file] = result[0]
            assert len(result[0]) == len(ROWS)
        return found[layout, file]

    return rows


Healthy = Callable[[str, str], dict[int, dict[str, object]]]


@pytest.mark.parametrize(("name", "file", "damage"), cases([*BREAKS]))
def test_a_damaged_row(tmp_path: Path, healthy: Healthy, name: str, file: str, damage: str) -> None:
    place = Random(f"{name} {file} {damage}").randrange(2, len(ROWS))
    check_damaged_row(tmp_path, healthy, name, file, damage, place)


@pytest.mark.cli  # a quarter of the file's time
@pytest.mark.parametrize(
    ("name", "file", "damage"), cases([*BREAKS], lambda layout, _: not layout.headed and layout.encoding == "latin-1")
)
def test_a_damaged_first_row_of_a_file_without_header(
    tmp_path: Path, healthy: Healthy, name: str, file: str, damage: str
) -> None:
    check_damaged_row(tmp_path, healthy, name, file, damage, 0)


def check_damaged_row(folder: Path, healthy: Healthy, name: str, file: str, damage: str, place: int) -> None:
    layout, random = LAYOUTS[name], Random(f"{name} {file} {damage} {place}")
    text = [line.encode(layout.encoding) for line in layout.files[file]]
    stead = BREAKS[damage](text[place], random)
    save(write(folder, layout) / file, b"\n".join([*text[:place], *stead, *text[place + 1 :]]) + b"\n")
    hurt = range(place + 1, place + 1 + len(stead))

    skipped = read(layout, folder, file, "skip")
    assert not isinstance(skipped, str), skipped
    rows, dropped = skipped
    assert {row: values for row, values in rows.items() if row not in hurt} == {
        row if row <= place else row + len(stead) - 1: values
        for row, values in healthy(name, file).items()
        if row != place + 1
    }
    found = len(rows) + dropped - (len(ROWS) - 1)
    assert found == sum(map(bool, stead)) or (found == 1 and "line break" in damage and '"' in layout.files[file][-1])
    if damage == "NUL":
        assert not rows.keys() & {*hurt}

    stopped = read(layout, folder, file, "error")
    if dropped:
        assert isinstance(stopped, str)
        assert any(f"{file}, row {row}, column " in stopped for row in hurt)
    else:
        assert stopped == skipped


@pytest.mark.cli  # a quarter of the file's time
@pytest.mark.parametrize(("name", "file", "damage"), cases([*BREAKS], lambda layout, _: layout.headed))
def test_a_damaged_header(tmp_path: Path, healthy: Healthy, name: str, file: str, damage: str) -> None:
    layout, random = LAYOUTS[name], Random(f"{name} {file} {damage} header")
    header, *text = [line.encode(layout.encoding) for line in layout.files[file]]
    save(write(tmp_path, layout) / file, b"\n".join([*BREAKS[damage](header, random), *text]) + b"\n")
    needed = ("user", "item", "rating", "title")
    was = [{column: row[column] for column in needed if column in row} for row in healthy(name, file).values()]
    for mode in MODES:
        result = read(layout, tmp_path, file, mode)
        if isinstance(result, str):
            continue
        # the damaged name is not needed, or all rows now have too many columns
        read_rows = [{column: row[column] for column in needed if column in row} for row in result[0].values()]
        good = [row for row in read_rows if row in was]
        assert good == was or (mode == "skip" and not good)
        assert len(read_rows) - len(good) <= 1  # the second half of a header that was broken in two


@pytest.mark.parametrize(("name", "file", "damage"), cases([*HARMLESS]))
def test_harmless_changes(tmp_path: Path, healthy: Healthy, name: str, file: str, damage: str) -> None:
    layout = LAYOUTS[name]
    content = "".join(f"{line}\n" for line in layout.files[file]).encode(layout.encoding)
    save(write(tmp_path, layout) / file, HARMLESS[damage](content, Random(0)))
    for mode in MODES:
        result = read(layout, tmp_path, file, mode)
        assert not isinstance(result, str), result
        assert [*result[0].values()] == [*healthy(name, file).values()]


@pytest.mark.parametrize(("name", "file", "damage"), cases([*FATAL]))
def test_a_file_of_something_else(tmp_path: Path, name: str, file: str, damage: str) -> None:
    layout = LAYOUTS[name]
    content = "".join(f"{line}\n" for line in layout.files[file]).encode(layout.encoding)
    save(write(tmp_path, layout) / file, FATAL[damage](content, Random(f"{name} {file} {damage}")))
    assert isinstance(read(layout, tmp_path, file, "error"), str)
    result = read(layout, tmp_path, file, "skip")
    # any bytes are latin-1: some rows of noise may look like users, but not all
    assert isinstance(result, str) or not result[0] or (damage == "random bytes" and result[1])


@pytest.mark.parametrize(("name", "file", "what"), cases(["folder", "loop", "dangling", "pipe"]))
def test_something_else_in_place_of_a_file(tmp_path: Path, name: str, file: str, what: str) -> None:
    path = write(tmp_path, LAYOUTS[name]) / file
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if what == "loop" else "nowhere")
    result = read(LAYOUTS[name], tmp_path, file, "skip")
    assert isinstance(result, str)
    assert result.startswith("a stream" if what == "pipe" else "not a file")


@pytest.mark.parametrize(("name", "file", "mode"), cases(MODES, lambda _, file: file.endswith(".gz")))
def test_a_damaged_gzip_file(tmp_path: Path, healthy: Healthy, name: str, file: str, mode: OnBadRow) -> None:
    path, random = write(tmp_path, LAYOUTS[name]) / file, Random(file)
    whole = path.read_bytes()
    for case in range(40):
        path.write_bytes(whole[: random.randrange(1, len(whole))] if case % 2 else flipped(whole, random))
        result = read(LAYOUTS[name], tmp_path, file, mode)
        # the time and the flags at its head are not in its checksum
        assert isinstance(result, str) or (case % 2 == 0 and result[0] == healthy(name, file))


@pytest.mark.parametrize(("name", "file", "column"), cases([*range(2)], lambda layout, _: layout.headed))
def test_two_columns_of_one_name(tmp_path: Path, name: str, file: str, column: int) -> None:
    layout = LAYOUTS[name]
    delimiter = next(d for d in ";\t," if d in layout.files[file][0])
    path = write(tmp_path, layout) / file
    twin = layout.files[file][0].split(delimiter)[column]
    text = [line + delimiter + (twin if i == 0 else "7") for i, line in enumerate(layout.files[file])]
    path.write_text("\n".join(text), layout.encoding)
    for mode in MODES:
        result = read(layout, tmp_path, file, mode)
        assert isinstance(result, str)
        assert f"two columns of one name, {path}, row 1, column" in result


PEOPLE = csv("liked_titles,disliked_titles,target_title", '"Alien|Café, the",Fargo,Kids {i}')


@pytest.mark.parametrize("damage", BREAKS)
@pytest.mark.parametrize("place", [0, 1, 12])
def test_a_damaged_line_of_new_users(tmp_path: Path, damage: str, place: int) -> None:
    text = [line.encode() for line in PEOPLE]
    text[place : place + 1] = BREAKS[damage](text[place], Random(f"{damage} {place}"))
    path = tmp_path / "people.csv"
    path.write_bytes(b"\n".join(text))
    result = within(LIMIT, lambda: read_new_users(path))
    if isinstance(result, DataError):
        assert "people.csv" in str(result)
        assert "Fix: " in str(result)
        return
    assert isinstance(result, list), repr(result)
    targets = [person.text.target for person in result]
    assert [f"Kids {i}" for i in ROWS if i != place and f"Kids {i}" not in targets] == []
