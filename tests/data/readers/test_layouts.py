"""Every layout that people have is read with nothing but a path, plain or compressed, or refused with what to do."""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pytest
from tiny import rows, write

from expctr.data.readers import amazon, bookcrossing, movielens
from expctr.data.readers.base import RawTables
from expctr.errors import DataError

META = '{"asin": "B00AAAAAA1", "title": "Cats"}\n'
META_2023 = '{"parent_asin": "B00AAAAAA1", "title": "Cats"}\n'
HEADER_2023 = "user_id,parent_asin,rating,timestamp"
ROW_2023 = "AGKASBHYZPGTEPO6LWZPVJWB2BVA,B00AAAAAA1,5.0,1370000000123"
RATING_2023 = {"user": "AGKASBHYZPGTEPO6LWZPVJWB2BVA", "item": "B00AAAAAA1", "rating": 5.0, "timestamp": 1370000000}
RATING = {**RATING_2023, "user": "A1C6M8LCIX4M6M"}
BOOK = {"user": "7", "item": "034545104X", "rating": 5.0, "timestamp": None}
JOINED = (
    ",user_id,location,age,isbn,rating,book_title,book_author,year_of_publication,publisher,img_s,img_m,img_l,"
    "Summary,Language,Category,city,state,country\n"
    '0,7,"tyler, texas, usa",34.7439,034545104x,5,"Flesh ""Blood""",K,2002.0,Oxford,h,h,h,"Long, and\nlonger",en,'
    "['Fiction'],tyler,texas,usa\n"
    '1,8,"köln, , germany",34.0,034545104x,0,"Flesh ""Blood""",K,2002.0,Oxford,h,h,h,Short,en,9,köln,,germany\n'
)
KAGGLE_RATINGS = (
    "Id,Title,Price,User_id,profileName,review/helpfulness,review/score,review/time,review/summary,review/text\n"
    '1882931173,"Cats, mostly",,A1C6M8LCIX4M6M,"J. K. ""Jo""",7/7,5.0,1370000000,Nice,"Good, really"\n'
    "0826414346,Dogs,19.40,,,0/0,3.0,1370000001,Fine,Fine.\n"
)
KAGGLE_BOOKS = (
    "Title,description,authors,image,previewLink,publisher,publishedDate,infoLink,categories,ratingsCount\n"
    '"Cats, mostly",,"[\'Jo O""Neil\', ""Al""]",,,,1996,,"[\'Pets\', \'Humor\']",\nDogs,,,,,,,,,\n'
)

Check = Callable[[RawTables], object]


def first_rating(tables: RawTables) -> object:
    return rows(tables.interactions)[0]


LAYOUTS: dict[str, tuple[Callable[[Path], RawTables], Mapping[str, str], Check, object]] = {
    "Amazon 2014, ratings only": (
        amazon.read,
        {"ratings_Books.csv": "A1C6M8LCIX4M6M,B00AAAAAA1,5.0,1370000000\n", "meta_Books.json": META},
        first_rating,
        RATING,
    ),
    "Amazon 2018, ratings only": (
        amazon.read,
        {"Books.csv": "B00AAAAAA1,A1C6M8LCIX4M6M,5.0,1370000000\n", "meta_Books.json": META},
        first_rating,
        RATING,
    ),
    "Amazon 2018, another category": (
        amazon.read,
        {"Gift_Cards.csv": "B00AAAAAA1,A1C6M8LCIX4M6M,5.0,1370000000\n", "meta_Gift_Cards.json": META},
        first_rating,
        RATING,
    ),
    "Amazon 2023, rating_only": (
        amazon.read,
        {"Books.csv": f"{HEADER_2023}\n{ROW_2023}\n", "meta_Books.jsonl": META_2023},
        first_rating,
        RATING_2023,
    ),
    "Amazon 2023, last_out": (
        amazon.read,
        {
            "Books.train.csv": f"{HEADER_2023},history\n{ROW_2023},\n",
            "Books.valid.csv": f"{HEADER_2023},history\n{ROW_2023.replace('5.0', '4.0')},B00AAAAAA1\n",
            "Books.test.csv": f"{HEADER_2023},history\n{ROW_2023.replace('5.0', '3.0')},B00AAAAAA1 B00AAAAAA1\n",
            "meta_Books.jsonl": META_2023,
        },
        lambda tables: {name: rows(table)[0]["rating"] for name, table in tables.splits.items()},
        {"train": 5.0, "val": 4.0, "test": 3.0},
    ),
    "Amazon, Kaggle": (
        amazon.read,
        {"Books_rating.csv": KAGGLE_RATINGS, "books_data.csv": KAGGLE_BOOKS},
        lambda tables: (rows(tables.interactions), rows(tables.items)),
        (
            [
                {**RATING, "item": "Cats, mostly", "review": "Good, really"},
                {"user": "anonymous 3", "item": "Dogs", "rating": 3.0, "timestamp": 1370000001, "review": "Fine."},
            ],
            [
                {
                    "item": "Cats, mostly",
                    "title": "Cats, mostly",
                    "brand": 'Jo O"Neil, Al',
                    "categories": ["Pets", "Humor"],
                },
                {"item": "Dogs", "title": "Dogs", "brand": None, "categories": []},
            ],
        ),
    ),
    "MovieLens-20M, Kaggle": (
        movielens.read,
        {
            "rating.csv": '"userId","movieId","rating","timestamp"\n1,2,3.5,"2005-04-02 23:53:47"\n',
            "movie.csv": '"movieId","title","genres"\n2,"Jumanji (1995)","Adventure|Children"\n',
        },
        lambda tables: (rows(tables.interactions), rows(tables.items)[0]["title"]),
        ([{"user": "1", "item": "2", "rating": 3.5, "timestamp": 1112486027}], "Jumanji"),
    ),
    "MovieLens-20M with users": (
        movielens.read,
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.5,1112486027\n",
            "movies.csv": "movieId,title,genres\n2,Jumanji (1995),Adventure\n",
            "users.csv": "userId,age,income\n1,34,9\n",
        },
        lambda tables: tables.users and (rows(tables.users)[0]["age"], tables.users.unused),
        (34, ("income",)),
    ),
    "BookCrossing, Kaggle in lower case": (
        bookcrossing.read,
        {
            "ratings.csv": "User-ID,ISBN,Book-Rating\n7,034545104X,5\n",
            "books.csv": "ISBN,Book-Title,Book-Author\n034545104X,Flesh,K\n",
            "users.csv": "User-ID,Location,Age\n7,x,34\n",
        },
        lambda tables: (rows(tables.interactions), tables.users and rows(tables.users)[0]["age"]),
        ([BOOK], 34),
    ),
    "BookCrossing, Preprocessed_data.csv": (
        bookcrossing.read,
        {"Preprocessed_data.csv": JOINED},
        lambda tables: (rows(tables.interactions)[0], rows(tables.items), tables.users and rows(tables.users)),
        (
            BOOK,
            [{"item": "034545104X", "title": 'Flesh "Blood"', "author": "K", "year": 2002, "publisher": "Oxford"}],
            [{"user": "7", "age": None, "country": "usa"}, {"user": "8", "age": 34, "country": "germany"}],
        ),
    ),
    "RecBole, split": (
        movielens.read,
        {
            **{
                f"x.{split}.inter": f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t{stars}\t9\n"
                for split, stars in (("train", 5), ("valid", 4), ("test", 3))
            },
            "x.item": "item_id:token\tmovie_title:token_seq\n2\tJumanji\n",
        },
        lambda tables: {name: rows(table)[0]["rating"] for name, table in tables.splits.items()},
        {"train": 5.0, "val": 4.0, "test": 3.0},
    ),
}


@pytest.mark.parametrize(
    ("name", "compression"),
    [
        *((name, compression) for name in LAYOUTS for compression in ("plain", "gzip")),
        *((name, "zstd") for name in ("Amazon 2018, ratings only", "RecBole, split")),
        ("MovieLens-20M, Kaggle", "gzip under a plain name"),
    ],
)
def test_a_layout_needs_nothing_but_its_path(tmp_path: Path, name: str, compression: str) -> None:
    read, files, check, expected = LAYOUTS[name]
    for file, text in files.items():
        save(tmp_path / file, text, compression)
    assert check(read(tmp_path)) == expected


def save(path: Path, text: str, compression: str) -> None:
    if compression == "zstd":
        lines = pl.LazyFrame({"": text.removesuffix("\n").split("\n")})
        lines.sink_csv(f"{path}.zst", include_header=False, quote_style="never", compression="zstd")
    elif compression == "gzip under a plain name":
        path.write_bytes(gzip.compress(text.encode()))
    elif compression == "gzip":
        Path(f"{path}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")


RATINGS, MOVIES = "userId,movieId,rating,timestamp\n1,2,5,9\n", "movieId,title,genres\n2,Jumanji (1995),Drama\n"
INTER, ITEM = "user_id:token\titem_id:token\trating:float\n1\t2\t5\n", "item_id:token\tmovie_title:token\n2\tJumanji\n"
REVIEW = '{"reviewerID": "A", "asin": "B00AAAAAA1", "overall": 5.0, "unixReviewTime": 1}\n'


@pytest.mark.parametrize(
    ("read", "files", "error"),
    [
        (
            movielens.read,
            {"ratings.csv": RATINGS, "movies.csv": MOVIES, "x.inter": INTER, "x.item": ITEM},
            r"holds 2 layouts \(RecBole: x.inter, x.item; ML-20M or latest: ratings.csv, movies.csv\). Fix: keep",
        ),
        (
            movielens.read,
            {"x.inter": INTER, "x.item": ITEM, **{f"x.{s}.inter": INTER for s in ("train", "valid", "test")}},
            r"holds 2 layouts \(RecBole, split: x.train.inter, .*; RecBole: x.inter",
        ),
        (
            movielens.read,
            {"ratings.csv": RATINGS, "rating.csv": RATINGS, "movies.csv": MOVIES},
            r"several files could be meant in .*: rating.csv, ratings.csv. Fix: keep one",
        ),
        (
            amazon.read,
            {"reviews_Books.json": REVIEW, "reviews_Books_5.json": REVIEW, "meta_Books.json": META},
            r"several files could be meant in .*: reviews_Books.json, reviews_Books_5.json. Fix: keep one",
        ),
        (
            amazon.read,
            {"Books.json": REVIEW, "Books.csv": "", "meta_Books.json": META},
            r"several files could be meant in .*: Books.csv, Books.json",
        ),
        (
            amazon.read,
            {"Books.json.gz.part": "", "meta_Books.json": META},
            r"no known layout .*Fix: wait until the download of Books.json.gz.part is complete",
        ),
        (movielens.read, {"ml-20m.zip": ""}, r"no known layout .*Fix: unpack ml-20m.zip, or set data.path"),
        (movielens.read, {"ratings.csv": "PK\x03\x04..", "movies.csv": MOVIES}, r"a zip archive, .*ratings.csv. Fix: "),
        (movielens.read, {"ratings.csv": "BZh91AY", "movies.csv": MOVIES}, r"a bzip2 archive, .*ratings.csv. Fix: "),
        (
            amazon.read,
            {"Books.csv": "B00AAAAAA1,B00AAAAAA2,5.0,1370000000\n", "meta_Books.json": META},
            r"users and items look alike, .*Books.csv, row 1: .*Fix: add the names .* user,item,rating,timestamp or ",
        ),
    ],
)
def test_a_choice_is_asked_for(
    tmp_path: Path, read: Callable[[Path], RawTables], files: Mapping[str, str], error: str
) -> None:
    with pytest.raises(DataError, match=error):
        read(write(tmp_path, files))


@pytest.mark.parametrize(
    ("read", "files", "notes"),
    [
        (
            movielens.read,
            {"ratings.csv": RATINGS, "movies.csv": MOVIES, "ratings.csv.gz": "", "x.inter": INTER, "tags.csv": ""},
            ("not used: file ratings.csv.gz", "not used: file x.inter"),
        ),
        (
            amazon.read,
            {"Books.json": REVIEW, "meta_Books.json": META, "meta_Books.json.gz.part": "", "meta_Toys.json": META},
            ("not used: file meta_Books.json.gz.part", "category Books; data.category chooses another one: Toys"),
        ),
    ],
)
def test_files_that_are_not_read_are_named(
    tmp_path: Path, read: Callable[[Path], RawTables], files: Mapping[str, str], notes: tuple[str, ...]
) -> None:
    assert read(write(tmp_path, files)).notes == notes


def test_a_file_that_was_unpacked_in_part_is_a_doubt(tmp_path: Path) -> None:
    """As on a full disk: the packed file beside it has more rows."""
    packed = gzip.compress((RATINGS + "9,2,5,900\n").encode())
    folder = write(tmp_path, {"ratings.csv": RATINGS, "movies.csv": MOVIES, "ratings.csv.gz": packed})
    (doubt,) = movielens.read(folder).doubts
    assert "ratings.csv.gz is left out as a compressed copy of ratings.csv, which has another size. Fix: " in doubt
    (folder / "ratings.csv.gz").write_bytes(gzip.compress(RATINGS.encode()))
    assert not movielens.read(folder).doubts


@pytest.mark.parametrize(("compression", "damage"), [("gzip", "cut"), ("gzip", "flipped"), ("zstd", "cut")])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, compression: str, damage: str) -> None:
    text = RATINGS + "".join(f"{user},2,5,{user * 7919 % 10_007}\n" for user in range(999))
    save(tmp_path / "ratings.csv", text, compression)
    (path,) = tmp_path.iterdir()
    (tmp_path / "movies.csv").write_text(MOVIES)
    whole = path.read_bytes()
    middle = len(whole) // 2
    spoilt = whole[:middle] + (b"" if damage == "cut" else bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    path.write_bytes(spoilt)
    with pytest.raises(DataError, match=rf"{path.name}.*Fix: .*(damaged|unpack)"):
        rows(movielens.read(tmp_path).interactions)


def test_a_latin1_file_is_read_from_gzip(tmp_path: Path) -> None:
    (tmp_path / "BX-Books.csv.gz").write_bytes(gzip.compress('"ISBN";"Book-Title"\n"1";"Café"\n'.encode("latin-1")))
    tables = bookcrossing.read(
        write(tmp_path, {"BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"1";"1";"5"\n'})
    )
    assert rows(tables.items)[0]["title"] == "Café"
