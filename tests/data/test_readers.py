"""Each raw layout gives the same typed tables."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny import rows, write

from expctr.data.errors import DataError
from expctr.data.readers import amazon, bookcrossing, movielens

FLAGS_TOY = "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"
FLAGS_NONE = "1|" + "|".join("0" * 18)
ML_100K: dict[str, str | bytes] = {
    "u.data": "196\t1\t3\t881250949\n22\t543\t1\t878887116\n22\t267\t5\t878887117\n",
    "u.item": (
        f"1|Toy Story (1995)|01-Jan-1995||http://x|{FLAGS_TOY}\n"
        f"543|Misérables, Les (1995)|01-Jan-1995||http://x|{FLAGS_NONE}\n"
        f"1412|Land Before Time III: The Time of the Great Giving (1995) (V)|01-Jan-1995||http://x|{FLAGS_TOY}\n"
        f"267|unknown||||{FLAGS_NONE}\n"
    ).encode("latin-1"),
    "u.user": "22|25|M|writer|40206\n196|49|M|writer|55105\n",
}
RECBOLE: dict[str, str | bytes] = {
    "ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t1\t3\t881250949\n22\t543\t1\t878887116\n22\t267\t5\t878887117\n"
    ),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n"
        "543\tMisérables, Les\t1995\tunknown\n"
        "1412\tLand Before Time III: The Time of the Great Giving (1995)\tV\tAnimation Children's Comedy\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
    ),
    "ml-100k.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "22\t25\tM\twriter\t40206\n196\t49\tM\twriter\t55105\n"
    ),
}


def test_both_layouts_of_movielens_100k_agree(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    group_lens = movielens.read(write(tmp_path, ML_100K))
    folder = tmp_path_factory.mktemp("recbole")
    for name, text in RECBOLE.items():
        (folder / name).write_text(str(text))
    recbole = movielens.read(folder)

    items = rows(group_lens.items)
    assert items == rows(recbole.items)
    assert items[0] == {
        "item": "1",
        "title": "Toy Story",
        "year": 1995,
        "genres": ["Animation", "Children's", "Comedy"],
    }
    assert items[1] == {"item": "543", "title": "Misérables, Les", "year": 1995, "genres": []}
    assert (items[2]["title"], items[2]["year"]) == ("Land Before Time III: The Time of the Great Giving", 1995)
    assert items[3] == {"item": "267", "title": None, "year": None, "genres": []}
    assert rows(group_lens.interactions) == rows(recbole.interactions)
    assert rows(group_lens.interactions)[0] == {"user": "196", "item": "1", "rating": 3.0, "timestamp": 881250949}
    assert group_lens.users
    assert recbole.users
    assert rows(group_lens.users)[0] == {"user": "22", "age": 25, "gender": "M", "occupation": "writer"}
    assert sorted(map(str, rows(group_lens.users))) == sorted(map(str, rows(recbole.users)))


def test_movielens_1m(tmp_path: Path) -> None:
    tables = movielens.read(
        write(
            tmp_path,
            {
                "ratings.dat": "1::1193::5::978300760\n",
                "movies.dat": "1193::Café, Le (1975)::Drama|Romance\n".encode("latin-1"),
                "users.dat": "1::F::18::10::48067\n",
            },
        )
    )
    assert rows(tables.interactions) == [{"user": "1", "item": "1193", "rating": 5.0, "timestamp": 978300760}]
    assert rows(tables.items) == [{"item": "1193", "title": "Café, Le", "year": 1975, "genres": ["Drama", "Romance"]}]
    assert tables.users
    assert rows(tables.users) == [{"user": "1", "gender": "F", "age": 18, "occupation": "10"}]


def test_recboles_movielens_1m_calls_its_genres_otherwise(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "ml-1m.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1193\t5\t978300760\n",
        "ml-1m.item": (
            "item_id:token\tmovie_title:token_seq\trelease_year:token\tgenre:token_seq\n"
            "1193\tCafé, Le\t1975\tDrama Romance\n"
        ),
    }
    tables = movielens.read(write(tmp_path, files))
    assert rows(tables.items) == [{"item": "1193", "title": "Café, Le", "year": 1975, "genres": ["Drama", "Romance"]}]


def test_movielens_csv_with_crlf_and_quoted_titles(tmp_path: Path) -> None:
    tables = movielens.read(
        write(
            tmp_path,
            {
                "ratings.csv": "userId,movieId,rating,timestamp\r\n1,11,3.5,1112486027\r\n",
                "movies.csv": (
                    'movieId,title,genres\r\n11,"American President, The (1995)",Comedy|Drama\r\n'
                    '12,"Say ""Ah"" (2006–2007) ",(no genres listed)\r\n13,Moonlight,Drama\r\n'
                ),
            },
        )
    )
    assert rows(tables.interactions) == [{"user": "1", "item": "11", "rating": 3.5, "timestamp": 1112486027}]
    assert rows(tables.items) == [
        {"item": "11", "title": "American President, The", "year": 1995, "genres": ["Comedy", "Drama"]},
        {"item": "12", "title": 'Say "Ah"', "year": 2006, "genres": []},
        {"item": "13", "title": "Moonlight", "year": None, "genres": ["Drama"]},
    ]
    assert tables.users is None


BX = {
    "BX-Book-Ratings.csv": (
        '"User-ID";"ISBN";"Book-Rating"\r\n"276725";"034545104x";"0"\r\n"276726";"0155061224";"5"\r\n'
    ),
    "BX-Books.csv": (
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\r\n'
        '"034545104X";"Flesh &amp; Blood; a \\"Novel\\"; etc";"Kellerman, É.";"2002";"Simon &amp; Schuster";"http"\r\n'
        '"078946697X";"DK Readers (Level 4)\\";Michael Teitelbaum";"2000";"DK Publishing Inc";"http"\r\n'
        '"0155061224";"Rites of Passage";"Judith Rae";"0";"Heinle";"http"\r\n'
    ),
    "BX-Users.csv": (
        '"User-ID";"Location";"Age"\r\n"276725";"tyler, texas, usa";"NULL"\r\n"276726";"köln, , n/a";"34"\r\n'
        '"3";"x";239\r\n'
    ),
}


def test_bookcrossing_dump(tmp_path: Path) -> None:
    tables = bookcrossing.read(write(tmp_path, {name: text.encode("latin-1") for name, text in BX.items()}))
    assert rows(tables.interactions) == [
        {"user": "276725", "item": "034545104X", "rating": 0.0, "timestamp": None},
        {"user": "276726", "item": "0155061224", "rating": 5.0, "timestamp": None},
    ]
    blood, readers, rites = rows(tables.items)
    assert blood["title"] == 'Flesh & Blood; a "Novel"; etc'
    assert (blood["author"], blood["year"], blood["publisher"]) == ("Kellerman, É.", 2002, "Simon & Schuster")
    assert (readers["title"], readers["author"]) == ("DK Readers (Level 4)", "Michael Teitelbaum")
    assert (readers["year"], rites["year"]) == (2000, None)
    assert tables.users
    assert rows(tables.users) == [
        {"user": "276725", "age": None, "country": "usa"},
        {"user": "276726", "age": 34, "country": None},
        {"user": "3", "age": None, "country": "x"},
    ]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_bookcrossing_kaggle(tmp_path: Path, delimiter: str) -> None:
    def lines(*table: tuple[str, ...]) -> str:
        return "".join(delimiter.join(row) + "\n" for row in table)

    folder = write(
        tmp_path,
        {
            "Ratings.csv": lines(("User-ID", "ISBN", "Book-Rating"), ("1", "0155061224", "5")),
            "Books.csv": lines(("ISBN", "Title", "Author", "Year"), ("0155061224", "Rites &amp; Passage", "J", "2001")),
            "Users.csv": lines(("User-ID", "Location", "Age"), ("1", '"tyler, texas, usa"', "34.0")),
        },
    )
    tables = bookcrossing.read(folder)
    assert rows(tables.interactions) == [{"user": "1", "item": "0155061224", "rating": 5.0, "timestamp": None}]
    assert rows(tables.items)[0] == {
        "item": "0155061224",
        "title": "Rites & Passage",
        "author": "J",
        "year": 2001,
        "publisher": None,
    }
    assert tables.users
    assert rows(tables.users) == [{"user": "1", "age": 34, "country": "usa"}]


REVIEW = {"user": "A1", "item": "B1", "rating": 5.0, "timestamp": 1370000000, "review": "Fine."}
OF_2014 = {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1370000000, "reviewText": "Fine."}
META_2014 = {"asin": "B1", "title": "Cats &amp; 'Dogs'", "brand": "", "categories": [["Books", "Pets"], ["Books"]]}
META_2018 = {"asin": "B1", "title": "Cats", "category": ["Books", "Pets"], "also_buy": [], "rank": "1 in Books"}
OF_2023 = {"user_id": "A1", "asin": "V1", "parent_asin": "B1", "rating": 5, "timestamp": 1370000000123, "text": "Fine."}
META_2023 = {
    "parent_asin": "B1",
    "title": "Cats",
    "store": "A (Author)",
    "categories": ["Books", "Pets"],
    "author": None,
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("reviews", "meta", "review", "item", "title", "literal"),
    [
        ("reviews_Books_5.json", "meta_Books.json", OF_2014, META_2014, "Cats & 'Dogs'", True),
        ("Books_5.json", "meta_Books.json", OF_2014, META_2018, "Cats", False),
        ("Books.jsonl", "meta_Books.jsonl", OF_2023, META_2023, "Cats", False),
    ],
)
def test_amazon_releases(
    tmp_path: Path,
    suffix: str,
    reviews: str,
    meta: str,
    review: Mapping[str, object],
    item: Mapping[str, object],
    title: str,
    literal: bool,
) -> None:
    for name, text in ((reviews, json.dumps(review)), (meta, repr(dict(item)) if literal else json.dumps(item))):
        data = (text + "\n").encode()
        (tmp_path / (name + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    tables = amazon.read(tmp_path)
    assert rows(tables.interactions) == [REVIEW]
    assert rows(tables.items)[0] | {"brand": None} == {
        "item": "B1",
        "title": title,
        "brand": None,
        "categories": ["Books", "Pets"],
    }


def test_amazon_category(tmp_path: Path) -> None:
    line = json.dumps(OF_2014)
    folder = write(tmp_path, {"Gift_Cards_5.json": line, "meta_Gift_Cards.json": json.dumps(META_2014)})
    assert rows(amazon.read(folder).interactions)[0]["item"] == "B1"
    write(tmp_path, {"Books_5.json": line.replace("B1", "B2"), "meta_Books.json": json.dumps(META_2014)})
    assert rows(amazon.read(folder).interactions)[0]["item"] == "B2"
    assert rows(amazon.read(folder, "Gift_Cards").interactions)[0]["item"] == "B1"
    with pytest.raises(DataError, match=r"Looked for 2014: reviews_Toys\*"):
        amazon.read(folder, "Toys")


def test_amazon_title_of_scraped_script_is_none(tmp_path: Path) -> None:
    titles = ["var aPageStart = (new Date()).getTime();", '<span id="t">x</span>', "I <3 cats", ""]
    meta = "\n".join(json.dumps({"asin": f"B{i}", "title": title}) for i, title in enumerate(titles))
    tables = amazon.read(write(tmp_path, {"Books.json": json.dumps(OF_2014), "meta_Books.json": meta}))
    assert [row["title"] for row in rows(tables.items)] == [None, None, "I <3 cats", None]
