"""Each kind of bad row gives an error with file, row, column and fix, or is counted."""

from collections import Counter
from pathlib import Path

import pytest
from tiny import rows, write

from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.readers import amazon, bookcrossing, movielens
from expctr.data.readers.base import RawTables
from expctr.data.samples import make_samples, notes_on
from expctr.data.user_ratings import read_ratings
from expctr.errors import DataError

HEADER = "userId,movieId,rating,timestamp\n"
MOVIES = "movieId,title,genres\n1,A (1990),Drama\n2,B (1990),Drama\n3,C (1990),Drama\n"


def test_missing_folder_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder: .*nowhere"):
        movielens.read(tmp_path / "nowhere")


def test_missing_file_lists_layouts_and_content(tmp_path: Path) -> None:
    folder = write(tmp_path, {"notes.txt": ""})
    with pytest.raises(DataError, match=r"Looked for .*ML-100K: u.data, u.item; .*The folder holds notes.txt"):
        movielens.read(folder)
    with pytest.raises(DataError, match=r"Looked for .*BX-Book-Ratings.csv.*Kaggle: Ratings.csv, Books.csv"):
        bookcrossing.read(folder)
    write(tmp_path, {"ratings.csv": HEADER})
    with pytest.raises(DataError, match=r"latest lacks movies.csv or movie.csv. The folder holds notes.txt, ratings"):
        movielens.read(folder)
    with pytest.raises(DataError, match=r"Kaggle lacks Books.csv. The folder holds notes.txt, ratings.csv"):
        bookcrossing.read(folder)


def test_wrong_delimiter(tmp_path: Path) -> None:
    folder = write(tmp_path, {"ratings.csv": HEADER.replace(",", " ") + "1 2 3 4\n", "movies.csv": MOVIES})
    with pytest.raises(
        DataError, match=r"wrong delimiter or header, .*ratings.csv, row 1, column 1: .*user, item, rating"
    ):
        movielens.read(folder)
    folder = write(tmp_path, {"u.data": "1 1 5 1\n", "u.item": ""})
    with pytest.raises(DataError, match=r"wrong delimiter or header, .*u.data, row 1"):
        movielens.read_interactions(folder / "u.data")


def test_empty_files(tmp_path: Path) -> None:
    folder = write(tmp_path, {"ratings.csv": "", "movies.csv": MOVIES})
    with pytest.raises(DataError, match=r"no header and no data, .*ratings.csv, row 1"):
        movielens.read(folder)
    write(tmp_path, {"ratings.csv": HEADER})
    with pytest.raises(DataError, match=r"no rows in .*ratings.csv"):
        rows(movielens.read(folder).interactions)


BAD_ROWS = [
    ("1,2,3", "too few columns", "timestamp"),
    ("1,2,3,4,5", "too many columns", "5 of 4"),
    ("1,2,good,4", "rating is not a number", "rating"),
    ("1,2,nan,4", "rating is not a number", "rating"),
    ("1,2,,4", "rating is not a number", "rating"),
    ("1,2,5.5,4", "rating out of range", "rating"),
    ("1,2,-1,4", "rating out of range", "rating"),
    ("1,2,5,", "no timestamp", "timestamp"),
    (",2,5,4", "no user or item id", "user"),
    ("1,,5,4", "no user or item id", "item"),
    ("NULL,2,5,4", "no user or item id", "user"),
    ("1, <NA>,5,4", "no user or item id", "item"),
    ("1.23E+12,2,5,4", "id is a number that lost its last digits", "user"),
    ("1,7e+09,5,4", "id is a number that lost its last digits", "item"),
    ("1,2,5,yesterday", "timestamp is not a time", "timestamp"),
]


@pytest.mark.parametrize(("line", "problem", "column"), BAD_ROWS)
def test_bad_rating_rows(tmp_path: Path, line: str, problem: str, column: str) -> None:
    folder = write(tmp_path, {"ratings.csv": f"{HEADER}1,1,5,9\n\n{line}\n2,2,5,9\n{line}\n", "movies.csv": MOVIES})
    table = movielens.read(folder).interactions
    with pytest.raises(
        DataError, match=rf"^{problem}, .*ratings.csv, row 4, column {column}: .*2 of 4 rows read are bad"
    ):
        rows(table)
    dropped = Counter[str]()
    assert [row["item"] for row in rows(table, "skip")] == ["1", "2"]
    table.collect(["user"], "skip", dropped)
    assert dropped == {f"ratings.csv: {problem}": 2}


def test_bytes_that_are_not_utf8_in_a_utf8_layout(tmp_path: Path) -> None:
    movies = MOVIES.encode() + "4,Café,Drama\n".encode() + "5,Café,Drama\n".encode("latin-1")
    items = movielens.read(write(tmp_path, {"ratings.csv": HEADER + "1,1,5,9\n", "movies.csv": movies})).items
    with pytest.raises(DataError, match=r"undecodable bytes, .*movies.csv, row 6, column title: .*one encoding, UTF-8"):
        rows(items)
    assert [row["title"] for row in rows(items, "skip")] == ["A", "B", "C", "Café"]


def test_a_latin1_layout_that_someone_saved_as_utf8(tmp_path: Path) -> None:
    ratings = '"User-ID";"ISBN";"Book-Rating"\n"1";"1";"5"\n'
    for encoding in ("latin-1", "utf-8", "utf-8-sig"):
        books = '"ISBN";"Book-Title"\n"1";"Café"\n'.encode(encoding)
        tables = bookcrossing.read(write(tmp_path, {"BX-Book-Ratings.csv": ratings, "BX-Books.csv": books}))
        assert rows(tables.items)[0]["title"] == "Café"


def test_of_a_file_that_is_utf_8_but_for_some_lines_these_alone_are_read_otherwise(tmp_path: Path) -> None:
    """As where somebody appended a row. All other titles would be garbled."""
    titles = ["Café", "Łódź", "L’été"]
    movies = "".join(f"{i}::{title} (1990)::Drama\n" for i, title in enumerate(titles)).encode()
    rows = {
        "ratings.dat": "".join(f"1::{i}::5::90{i}\n" for i in range(4)),
        "movies.dat": movies + "3::Brûlée (1991)::Drama\n".encode("cp1252"),
    }
    tables = movielens.read(write(tmp_path, rows))
    assert tables.items.frame.sort("item").collect()["title"].to_list() == [*titles, "Brûlée"]


def test_a_latin1_layout_that_a_spreadsheet_saved_is_windows_1252(tmp_path: Path) -> None:
    movies = "1::L’été – “Ça” … (1975)::Drama\n2::Ž™ (1990)::Drama\n".encode("cp1252")
    twice = b"3::" + "Émile".encode().decode("latin-1").encode() + b" \xe9 (1999)::Drama\n"
    files = {"ratings.dat": "1::1::5::978300760\n", "movies.dat": movies + twice}
    tables = movielens.read(write(tmp_path, files))
    titles = [row["title"] for row in rows(tables.items)]
    assert titles == ["L’été – “Ça” …", "Ž™", "Ã\x83Â\x89mile é"]
    assert notes_on(tables, None) == ["read as Latin-1 or Windows-1252, because they are not UTF-8: movies.dat"]


def test_bad_json_lines(tmp_path: Path) -> None:
    good = b'{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 1}'
    bad = {
        b'{"reviewerID": "A"': ("not a JSON object", "all"),
        b"__import__('os').system('true')": ("not a JSON object", "all"),
        b"[1]": ("not a JSON object", "all"),
        b'{"reviewerID": "\xff"}': ("undecodable bytes", "all"),
        good.replace(b"5.0", b'"good"'): ("rating is not a number", "rating"),
        good.replace(b"5.0", b"6"): ("rating out of range", "rating"),
        good.replace(b'"asin"', b'"isbn"'): ("no user or item id", "item"),
    }
    for line, (problem, column) in bad.items():
        folder = write(
            tmp_path, {"Books.json": b"\n".join([good, line, good]), "meta_Books.json": '{"asin": "B", "title": "T"}'}
        )
        table = amazon.read(folder).interactions
        with pytest.raises(DataError, match=rf"^{problem}, .*Books.json, row 2, column {column}: .*1 of 3"):
            rows(table)
        assert len(rows(table, "skip")) == 2


def test_unknown_items_are_a_counted_drop_and_bad_rows_reach_the_summary(tmp_path: Path) -> None:
    ratings = "".join(f"{user},{item},4,{item}\n" for user in range(9) for item in (1, 2, 77))
    folder = write(tmp_path, {"ratings.csv": HEADER + ratings + "1,2,bad,1\n", "movies.csv": MOVIES + "9,short\n"})
    tables = movielens.read(folder)
    with pytest.raises(DataError, match=r"too few columns, .*movies.csv, row 5, column genres"):
        make_samples(tables, SampleOptions())
    _, summary = make_samples(tables, SampleOptions(on_bad_row="skip"))
    assert summary.rows == 28
    assert summary.dropped == {"ratings.csv: rating is not a number": 1, "item without a title": 9}
    assert summary.side_dropped == {"movies.csv: too few columns": 1}
    assert summary.interactions == 18
    assert summary.untitled == pytest.approx(1 / 3)


def ratings(tmp_path: Path, header: str, lines: list[str]) -> RawTables:
    write(tmp_path, {"ratings.csv": "\n".join([header, *lines]), "movies.csv": MOVIES})
    return movielens.read(tmp_path)


THREE_USERS = [f"{user},{item},4" for user in range(30) for item in (1, 2, 3)]


@pytest.mark.parametrize("name", ["ts", "time", "Date"])
def test_times_under_their_usual_names(tmp_path: Path, name: str) -> None:
    tables = ratings(tmp_path, f"userId,movieId,rating,{name}", ["1,1,4,2005-04-02 23:53:47"])
    assert rows(tables.interactions)[0]["timestamp"] == 1112486027


def test_a_column_that_may_hold_the_times_is_named_before_a_shuffle_is_advised(tmp_path: Path) -> None:
    tables = ratings(tmp_path, "userId,movieId,rating,when,where", [f"{row},9,x" for row in THREE_USERS])
    with pytest.raises(
        DataError, match=r"have no timestamp, .*its columns when, where are not used. Fix: rename .*; or, .*shuffle$"
    ):
        make_samples(tables, SampleOptions())
    _, summary = make_samples(tables, SampleOptions(order="shuffle"))
    assert summary.notes == ["not used: column when, where of ratings.csv"]


def test_without_an_order_in_time_no_row_needs_a_timestamp(tmp_path: Path) -> None:
    tables = ratings(tmp_path, HEADER.strip(), [f"{row}," for row in THREE_USERS])
    with pytest.raises(DataError, match=r"^no timestamp, .*order: shuffle; or count"):
        make_samples(tables, SampleOptions())
    _, summary = make_samples(tables, SampleOptions(order="shuffle"))
    assert (summary.interactions, summary.dropped) == (90, {})


SUMMER = 1112486027  # 2005


@pytest.mark.parametrize("odd", ["0", "-1", "9999-12-31", "1979-12-31", "38444", "4102444801000"])
def test_a_time_of_another_century_among_usual_ones_is_a_mistake(tmp_path: Path, odd: str) -> None:
    lines = [f"{user},{item},4,{SUMMER + item}" for user in range(30) for item in (1, 2, 3)]
    lines[7] = f"2,2,4,{odd}"
    tables = ratings(tmp_path, HEADER.strip(), lines)
    with pytest.raises(
        DataError, match=r"^timestamp is unlike most others, .*ratings.csv, row 9, column timestamp: .*1 of 90 rows"
    ):
        make_samples(tables, SampleOptions())
    skip = SampleOptions(on_bad_row="skip")
    _, summary = make_samples(tables, skip)
    assert (summary.rows, summary.interactions) == (90, 89)
    assert summary.dropped == {"ratings.csv: timestamp is unlike most others": 1}
    items = tables.items.frame.select("item", "title").collect()
    assert read_ratings(tables, items, skip, users=["2"])["item"].to_list() == ["1", "3"]
    _, summary = make_samples(tables, SampleOptions(order="shuffle"))
    assert summary.interactions == 90


def test_times_of_ratings_that_lost_their_digits_are_bad_rows(tmp_path: Path) -> None:
    lines = [f"{user},{item},4,{(SUMMER + user) * 1000}" for user in range(30) for item in (1, 2, 3)]
    lines[7:9] = "2,2,4,1.11E+12", "2,3,4,1.12E+12"
    tables = ratings(tmp_path, HEADER.strip(), lines)
    with pytest.raises(DataError, match=r"^timestamp is a number that lost its last digits, .*row 9, .*2 of 90 rows"):
        make_samples(tables, SampleOptions())
    skip = SampleOptions(on_bad_row="skip")
    _, summary = make_samples(tables, skip)
    assert summary.dropped["ratings.csv: timestamp is a number that lost its last digits"] == 2
    items = tables.items.frame.select("item", "title").collect()
    assert read_ratings(tables, items, skip, users=["2"])["item"].to_list() == ["1"]


def test_exact_times_that_are_short_are_good_though_a_batch_holds_no_others(tmp_path: Path) -> None:
    """Of days in microseconds, as Java and Spark write doubles, each fifth is so short."""
    times = [f"{day * 0.0000864:.7f}".rstrip("0") + "E15" for day in range(19600, 19606)]
    lines = [f"{row % 3000},{(row + day) % 3 + 1},4,{time}" for day, time in enumerate(times) for row in range(4000)]
    _, summary = make_samples(ratings(tmp_path, HEADER.strip(), lines), SampleOptions())
    assert (summary.rows, [*summary.dropped]) == (24_000, ["earlier rating of the same item by the same user"])


def test_times_of_reviews_that_are_mostly_in_another_century_are_refused(tmp_path: Path) -> None:
    review = '{{"reviewerID": "A{}", "asin": "B{}", "overall": 5.0, "unixReviewTime": {}}}\n'
    meta = "".join(f'{{"asin": "B{item}", "title": "T{item}"}}\n' for item in range(3))
    for time in (5 * 10**9, -(10**8)):
        reviews = "".join(review.format(user, item, time + item) for user in range(30) for item in range(3))
        tables = amazon.read(write(tmp_path, {"Books.json": reviews, "meta_Books.json": meta}))
        with pytest.raises(
            DataError,
            match=r"^.*Books.json, column timestamp: most times are before 1970 or after .*Fix: .* or order .*shuffle",
        ):
            make_samples(tables, SampleOptions())


def test_times_within_1970_are_a_doubt_unless_they_count(tmp_path: Path) -> None:
    lines = [f"{user},{item},4,{(7 * item) % 5}" for user in range(30) for item in (1, 2, 3)]
    _, summary = make_samples(ratings(tmp_path, HEADER.strip(), lines), SampleOptions())
    (doubt,) = summary.doubts
    assert doubt.startswith(f"{tmp_path / 'ratings.csv'}, column timestamp: most times are within 1970")
    lines = [f"{user},{item},4,{item}" for user in range(30) for item in (1, 2, 3)]
    assert not make_samples(ratings(tmp_path, HEADER.strip(), lines), SampleOptions())[1].doubts


def test_clicks_are_not_ratings(tmp_path: Path) -> None:
    tables = ratings(tmp_path, HEADER.strip(), [f"{user},{item},{item % 2},9" for user in (1, 2) for item in (1, 2, 3)])
    place = rf"--data TableDataModule --data.interactions {tmp_path / 'ratings.csv'}"
    with pytest.raises(DataError, match=rf"^rating out of range, .*0.5 to 5 for MovieLens; labels of 0 and 1.*{place}"):
        make_samples(tables, SampleOptions())
    with pytest.raises(DataError, match=rf"^the ratings are not 0.5 to 5 for MovieLens, .*none but 1.*{place}"):
        make_samples(tables, SampleOptions(on_bad_row="skip"))
    table = bookcrossing.read_interactions(write(tmp_path, {"r.csv": "User-ID,ISBN,Book-Rating\n1,2,11\n"}) / "r.csv")
    with pytest.raises(DataError, match=r"^rating out of range, .*0 to 10 for BookCrossing"):
        rows(table)


def test_ids_that_do_not_match(tmp_path: Path) -> None:
    lines = [f"{user},{item}.0,4,{item}" for user in range(9) for item in (1, 2, 3)]
    with pytest.raises(DataError, match=r"no rating is left .*: '1.0', '2.0', '3.0'; there .* '1', '2', '3'. Likely"):
        make_samples(ratings(tmp_path, HEADER.strip(), lines), SampleOptions())


def test_every_file_is_counted_and_splits_of_the_files_are_used(tmp_path: Path) -> None:
    header, row = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tx:float\n", "{}\t{}\t{}\t{}\t0\n"
    places = {"train": (1, 2), "valid": (3,), "test": (4,)}
    for name, items in places.items():
        text = header + "".join(row.format(user, item, 3 + user % 2, item) for user in range(5) for item in items)
        (tmp_path / f"x.{name}.inter").write_text(text)
    (tmp_path / "x.item").write_text("item_id:token\tmovie_title:token\n" + "".join(f"{i}\tT{i}\n" for i in range(9)))
    data = MovieLensDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert data.samples["split"].value_counts(sort=True, name="n").sort("split")["n"].to_list() == [5, 5, 5]
    assert {Path(path).name: count for path, count in data.summary.files.items()} == {
        "x.item": 9,
        "x.train.inter": 10,
        "x.valid.inter": 5,
        "x.test.inter": 5,
    }
    assert data.summary.own_splits
    assert data.users.to_list() == ["0", "1", "2", "3", "4"]
    assert data.ratings_of(["3"])["item"].to_list() == ["1", "2"]
    with (tmp_path / "x.train.inter").open("a") as file:
        file.write("3\t5\t9\t6\t0\n")
    with pytest.raises(DataError, match=r"rating out of range, .*use the rating scale, 0\.5 to 5 for MovieLens"):
        data.ratings_of(["3"])


def test_a_title_that_says_that_there_is_none_is_missing(tmp_path: Path) -> None:
    """In each dataset; what raters of BookCrossing wrote in place of an ISBN is an item without a title."""
    movies = movielens.read(write(tmp_path, {"ratings.csv": f"{HEADER}1,1,5,9\n", "movies.csv": f"{MOVIES}4,NULL,x\n"}))
    assert [row["title"] for row in rows(movies.items)] == ["A", "B", "C", None]
    books = '"ISBN";"Book-Title"\n"1";"nan"\n"2";"Nan Goldin"\n'
    ratings = '"User-ID";"ISBN";"Book-Rating"\n"1";"9,78292E+12";"5"\n"1";"none";"5"\n'
    tables = bookcrossing.read(write(tmp_path, {"BX-Book-Ratings.csv": ratings, "BX-Books.csv": books}))
    assert [row["title"] for row in rows(tables.items)] == [None, "Nan Goldin"]
    assert [row["item"] for row in rows(tables.interactions)] == ["9,78292E+12", "NONE"]
    write(tmp_path, {"BX-Book-Ratings.csv": ratings.replace('"1";"none"', '"nan";"2"')})
    with pytest.raises(DataError, match=r"no user or item id, .*BX-Book-Ratings.csv, row 3, column user"):
        rows(bookcrossing.read(tmp_path).interactions)
    meta = '{"asin": "B", "title": " NaN "}\n{"asin": "C", "title": "Naan"}\n'
    review = '{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 1}'
    tables = amazon.read(write(tmp_path, {"Books.json": review, "meta_Books.json": meta}))
    assert [row["title"] for row in rows(tables.items)] == [None, "Naan"]


def test_kaggles_books_without_a_title_or_a_user_may_say_so(tmp_path: Path) -> None:
    header = "Title,User_id,review/score,review/time\n"
    lines = "Emma,a,5,1\nNULL,a,5,2\n,a,4,3\nEmma,nan,4,4\n"
    books = "Title,authors,categories\nEmma,['Jane Austen'],\nNULL,['Somebody'],\n"
    tables = amazon.read(write(tmp_path, {"Books_rating.csv": header + lines, "books_data.csv": books}))
    assert [row["item"] for row in rows(tables.interactions)] == ["Emma", "(no title)", "(no title)", "Emma"]
    assert [row["user"] for row in rows(tables.interactions)] == ["a", "a", "a", "anonymous 5"]
    assert [row["title"] for row in rows(tables.items)] == ["Emma", None]
