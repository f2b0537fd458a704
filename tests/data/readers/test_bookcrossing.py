"""The original files of BookCrossing and those of Kaggle give the same typed tables."""

from pathlib import Path

import pytest
from tiny import rows, write

from expctr.data.readers import bookcrossing

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
