"""Each layout of MovieLens gives the same typed tables."""

from pathlib import Path

import pytest
from tiny import rows, write

from expctr.data.readers import movielens

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
