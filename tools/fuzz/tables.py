"""Tables as people have them, and damaged: files of `TableDataModule`, of the datasets, of people and of pairs."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import polars as pl
from hypothesis import strategies as st

from expctr.cli.predict_pairs import check_options, predict_pairs
from expctr.data.datamodules import AmazonBooksDataModule, BookCrossingDataModule, MovieLensDataModule
from expctr.data.new_users import new_user_samples, read_new_users
from expctr.data.ratings_module import RatingsDataModule
from expctr.data.readers.bad_rows import OnBadRow
from expctr.data.table import TableDataModule
from expctr.predictor import Predictor
from tools.fuzz.check import FaultError, answered

# --- cells

ODD = [
    "",
    " ",
    "null",
    "NaN",
    "None",
    "-",
    "0",
    "-1",
    "1e400",
    "inf",
    "٣",
    "\ufeff",
    "\x00",
    '"',
    "a\nb",
    "=1+1",
    "é",
    "🎬",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text(max_size=12))
IDS = st.one_of(st.integers(0, 6).map(str), st.sampled_from(["u1", "u2", "28", "28.0", "028"]), TEXTS)
NUMBERS = st.one_of(st.integers(0, 5).map(str), st.floats(allow_nan=True).map(str), st.sampled_from(ODD))
TIMES = st.one_of(
    st.integers(0, 2_000_000_000).map(str),
    st.integers(0, 2_000_000_000_000).map(str),
    st.datetimes().map(str),
    st.dates().map(str),
    TEXTS,
)
LISTS = st.one_of(
    st.lists(IDS, max_size=4).map("|".join), st.lists(IDS, max_size=4).map(json.dumps), st.just("[1, 2"), TEXTS
)
COLUMNS = {
    **dict.fromkeys(["user", "user_id", "UserID", "item", "item_id", "sku", "asin", "label", "clicked"], IDS),
    **dict.fromkeys(["rating", "stars", "price", "label", "Rating"], NUMBERS),
    **dict.fromkeys(["timestamp", "time", "date", "unixReviewTime"], TIMES),
    **dict.fromkeys(["title", "review", "brand", "split"], TEXTS),
    **dict.fromkeys(["liked", "disliked", "history", "history_labels", "liked_titles", "tags"], LISTS),
}


_GOOD = {
    "user_id": lambda u, i: f"u{u}",
    "item_id": lambda u, i: str(i),
    "clicked": lambda u, i: str((u * i) % 2),
    "rating": lambda u, i: str(1 + (u + i) % 5),
    "timestamp": lambda u, i: str(1_400_000_000 + 60 * u + i),
    "title": lambda u, i: f"Thing {i}",
}


@st.composite
def rows(draw: st.DrawFn, known: Mapping[str, st.SearchStrategy[str]]) -> tuple[list[str], list[list[str]]]:
    """The names of columns, perhaps odd or twice, and rows of texts: some are good but for a few cells."""
    if draw(st.integers(0, 3)) == 0:
        names = draw(st.lists(st.sampled_from([*known]), min_size=1, max_size=6))
        return names, draw(st.lists(st.tuples(*(known[name] for name in names)).map(list), max_size=25))
    names = ["user_id", "item_id", "clicked", "timestamp"]
    names += draw(st.lists(st.sampled_from(["rating", "title"]), max_size=2, unique=True))
    made = [[_GOOD[name](u, i) for name in names] for u in range(8) for i in range(5)]
    for name in draw(st.lists(st.sampled_from([*known]), max_size=2)):
        column = draw(st.lists(known[name], min_size=1, max_size=4))
        names = [*names, name]
        made = [[*row, column[place % len(column)]] for place, row in enumerate(made)]
    for _ in range(draw(st.integers(0, 3))):
        place, column_place = draw(st.integers(0, len(made) - 1)), draw(st.integers(0, len(names) - 1))
        made[place][column_place] = draw(known.get(names[column_place], TEXTS))
    if draw(st.integers(0, 9)) == 0:
        names[draw(st.integers(0, len(names) - 1))] = draw(TEXTS)
    return names, made


@st.composite
def text_files(draw: st.DrawFn, known: Mapping[str, st.SearchStrategy[str]]) -> tuple[str, bytes]:
    """The name and the bytes of a file: delimited text, JSON lines, or parquet, perhaps damaged or compressed."""
    names, values = draw(rows(known))
    kind = draw(st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]))
    if kind in ("csv", "tsv"):
        out = io.StringIO()
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        mark = "\t" if kind == "tsv" else draw(st.sampled_from([",", ";", "|"]))
        writer = csv.writer(out, delimiter=mark, quoting=quoting, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
        writer.writerows([names, *values])
        content = out.getvalue().encode(
            draw(st.sampled_from([*["utf-8"] * 9, "utf-8-sig", "utf-16", "latin-1"])), "replace"
        )
    elif kind in ("jsonl", "json"):
        records: list[Any] = [dict(zip(names, row, strict=True)) for row in values]
        if draw(st.booleans()):
            records = [{name: _typed(value) for name, value in record.items()} for record in records]
        text = json.dumps(records) if draw(st.booleans()) else "\n".join(map(json.dumps, records))
        content = text.encode()
    else:
        unique = {name: [row[place] for row in values] for place, name in enumerate(names)}
        table = pl.DataFrame(unique, schema=dict.fromkeys(unique, pl.String))
        if cast := draw(st.sampled_from([None, pl.Int64, pl.Float64, pl.Categorical])):
            table = table.with_columns(pl.all().cast(cast, strict=False))
        written = io.BytesIO()
        table.write_parquet(written)
        content = written.getvalue()
    content = draw(damaged(content)) if draw(st.integers(0, 7)) == 0 else content
    if kind != "parquet" and draw(st.integers(0, 9)) == 0:
        return f"file.{kind}.gz", gzip.compress(content)
    return f"file.{kind}", content


def _typed(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are cut out, doubled, moved, or replaced by others."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 200)))
        piece = draw(st.one_of(st.just(b""), st.just(content[start:end] * 2), st.binary(max_size=8), TEXTS.map(_bytes)))
        content = content[:start] + piece + content[end:]
    return content


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# --- trials


def read_all(data: RatingsDataModule) -> None:
    """Do what `fit` does with the data before it trains."""
    data.prepare_data()
    data.setup()
    for split in ("train", "val", "test"):
        table = data.table(split)
        if len(table):
            table.batch([0])
    data.slices("test")
    data.keep_ratings()
    data.ratings_of(data.users.head(3).to_list())


def try_table(files: tuple[tuple[str, bytes], tuple[str, bytes] | None]) -> None:
    """Read a table of interactions, and perhaps one of items."""
    with tempfile.TemporaryDirectory() as folder, answered():
        paths: list[str | None] = []
        for place, file in enumerate(files):
            path = file and Path(folder) / f"{place}{file[0]}"
            if path and file:
                path.write_bytes(file[1])
            paths.append(path and str(path))
        read_all(TableDataModule(paths[0], items=paths[1], cache_dir=f"{folder}/cache"))


TABLES = st.tuples(text_files(COLUMNS), st.one_of(st.none(), text_files(COLUMNS)))

_LAYOUTS: dict[str, tuple[type[RatingsDataModule], dict[str, str]]] = {
    "ml-100k": (
        MovieLensDataModule,
        {
            "u.data": "".join(f"{u}\t{i}\t{1 + (u * i) % 5}\t{u + i}\n" for u in range(12) for i in range(6)),
            "u.item": "".join(f"{i}|Film {i} (1990)|01-Jan-1990||x|{'|'.join('0' * 19)}\n" for i in range(6)),
        },
    ),
    "ml-latest": (
        MovieLensDataModule,
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n"
            + "".join(f"{u},{i},{1 + (u * i) % 5},{u + i}\n" for u in range(12) for i in range(6)),
            "movies.csv": "movieId,title,genres\n" + "".join(f'{i},"Film {i}, The",Drama|War\n' for i in range(6)),
        },
    ),
    "bookcrossing": (
        BookCrossingDataModule,
        {
            "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n'
            + "".join(f'"{u}";"{i}";"{(u * i) % 11}"\n' for u in range(12) for i in range(6)),
            "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author"\n'
            + "".join(f'"{i}";"Book {i}; or not";"A"\n' for i in range(6)),
            "BX-Users.csv": '"User-ID";"Location";"Age"\n'
            + "".join(f'"{u}";"x, y, z";"3{u % 9}"\n' for u in range(12)),
        },
    ),
    "amazon": (
        AmazonBooksDataModule,
        {
            "reviews_Books_5.json": "".join(
                json.dumps(
                    {"reviewerID": f"A{u}", "asin": f"B{i}", "overall": 3.0 + (u + i) % 3, "unixReviewTime": u + i}
                )
                + "\n"
                for u in range(12)
                for i in range(6)
            ),
            "meta_Books.json": "".join(f"{{'asin': 'B{i}', 'title': 'Volume {i}'}}\n" for i in range(6)),
        },
    ),
}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, OnBadRow, dict[str, bytes]]:
    """A dataset's files of which one or two are damaged, and what becomes of bad rows."""
    name = draw(st.sampled_from([*_LAYOUTS]))
    files = {file: text.encode() for file, text in _LAYOUTS[name][1].items()}
    for file in draw(st.lists(st.sampled_from([*files]), min_size=1, max_size=2, unique=True)):
        files[file] = draw(damaged(files[file]))
    return name, draw(st.sampled_from(get_args(OnBadRow))), files


def try_layout(given: tuple[str, OnBadRow, dict[str, bytes]]) -> None:
    """Read the files of a dataset."""
    name, on_bad_row, files = given
    with tempfile.TemporaryDirectory() as folder, answered():
        for file, content in files.items():
            (Path(folder) / file).write_bytes(content)
        made: Any = _LAYOUTS[name][0]
        data = made(folder, cache_dir=f"{folder}/cache")
        data.options = replace(data.options, on_bad_row=on_bad_row)
        read_all(data)


_PEOPLE = {
    **dict.fromkeys(["liked_titles", "disliked_titles"], LISTS),
    **dict.fromkeys(["target_title", "user", "target", "comment"], TEXTS),
}
PEOPLE = text_files(_PEOPLE)
PAIRS = text_files({**_PEOPLE, **dict.fromkeys(["user", "item"], IDS)})


def try_people(data: RatingsDataModule, file: tuple[str, bytes]) -> None:
    """Read a file of new users."""
    with tempfile.TemporaryDirectory() as folder, answered():
        path = Path(folder) / file[0]
        path.write_bytes(file[1])
        rows = new_user_samples(read_new_users(path), data.catalogue, data.samples)
        data.query_rows = rows
        data.table("predict")


def try_pairs(predictor: Predictor, file: tuple[str, bytes]) -> None:
    """Score a file of pairs without sentences: each pair has a score or a problem."""
    with tempfile.TemporaryDirectory() as folder, answered():
        path, out = Path(folder) / file[0], Path(folder) / "scored.parquet"
        path.write_bytes(file[1])
        check_options(path, out, "none", force=False)
        predict_pairs(predictor, path, out, "none", path)
        scored = pl.read_parquet(out)
        if not (scored["problem"].is_null() ^ scored["s_plain"].is_null()).all():
            raise FaultError("a pair has neither a score nor a problem, or both")
