"""A typed title or id finds its item, or is a new title."""

from collections.abc import Iterable
from time import process_time
from typing import Literal
from unicodedata import normalize

import polars as pl
import pytest

from expctr.data.catalogue import Catalogue, Item, nearest

ITEMS = pl.DataFrame(
    {
        "item": ["1", "2", "3", "4", "5", "6", "1984"],
        "title": ["Heat", "Heat", "HEAT", "1984", "Straße", "Fargo", "Kids"],
        "year": [1995, 1986, None, 1956, 2000, None, 1995],
        "genres": [["Crime"], [], None, None, None, ["Crime", "Comedy"], None],
    }
)
CATALOGUE = Catalogue(ITEMS)


def ids(typed: str, *, too: bool = False) -> list[str]:
    return [item.id for item in CATALOGUE.matches(typed, ids=too)]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Fargo", ["6"]),
        ("  fARGO\t", ["6"]),
        ("STRASSE", ["5"]),
        ("heat (1986)", ["2"]),
        ("Heat  ( 1986 )", []),
        ("HEAT", ["3"]),  # which case alone tells from the other two
        ("Heat", ["1", "2"]),
        ("heat", ["1", "2", "3"]),
        ("Hea", []),
        ("", []),
        ("id:2", ["2"]),
        ("id: 2 ", ["2"]),
        ("id:9", []),
        ("id:", []),
        ("2", []),
    ],
)
def test_what_is_meant(typed: str, expected: list[str]) -> None:
    assert ids(typed) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_accent_is_one_however_it_is_encoded(form: Literal["NFC", "NFD"]) -> None:
    """A Mac writes letters and accents apart."""
    catalogue = Catalogue(pl.DataFrame({"item": ["1", "2"], "title": [normalize(form, "Amélie"), "Heat"]}))
    for typed in ("Amélie", normalize("NFD", "amélie")):
        assert [item.id for item in catalogue.matches(typed)] == ["1"]
        assert catalogue.nearest(typed + "s") == [normalize(form, "Amélie")]


def test_an_id_without_prefix_is_accepted_on_request_and_never_hides_a_title() -> None:
    assert ids("2", too=True) == ["2"]
    assert ids("Fargo", too=True) == ["6"]
    assert ids("1984", too=True) == ["4", "1984"]  # a title and another item's id
    assert ids("1984 (1956)", too=True) == ["4"]
    assert ids("id:1984", too=True) == ["1984"]


def test_every_title_and_every_id_finds_its_item_under_the_catalogue_s_own_name() -> None:
    for item, title, year, _ in ITEMS.iter_rows():
        for typed in (title, title.lower(), f"{title} ({year})" if year else title, f"id:{item}"):
            assert Item(item, title) in CATALOGUE.matches(typed), typed


def test_items_without_years_are_found_by_title() -> None:
    catalogue = Catalogue(pl.DataFrame({"item": ["a", "b"], "title": ["Dune", "Dune (1984)"]}))
    assert catalogue.matches("dune") == [Item("a", "Dune")]
    assert catalogue.matches("Dune (1984)") == [Item("b", "Dune (1984)")]
    assert catalogue.described(Item("b", "Dune (1984)")) == "b ('Dune (1984)')"


def test_side_features_are_those_of_the_id_and_a_new_item_has_none() -> None:
    assert CATALOGUE.side_features(Item("6", "Fargo")) == {"target_year": None, "target_genres": ["Crime", "Comedy"]}
    assert CATALOGUE.side_features(Item("", "Fargo")) == {}


def test_a_catalogue_without_items_knows_nothing() -> None:
    empty = Catalogue(ITEMS.clear())
    assert empty.matches("Heat", ids=True) == []
    assert empty.nearest("Heat") == []


def test_the_nearest_titles_show_their_years_and_one_of_a_spelling() -> None:
    assert CATALOGUE.nearest("Fargi") == ["Fargo"]
    assert set(CATALOGUE.nearest("heat (1985)")) == {"Heat (1995)", "Heat (1986)"}
    assert CATALOGUE.nearest("something else entirely") == []
    assert len(nearest("heat", pl.Series(["HEAT", "Heat", "heat"]))) == 1


@pytest.mark.parametrize("typed", ["", "a", "(.*[", "|", "\x00", "ß"])
def test_anything_may_be_typed(typed: str) -> None:
    assert len(nearest(typed, pl.Series(["Alien", "A (.*[ title", "ß"]))) <= 3


def test_a_long_text_is_looked_up_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of three letters takes a pass over all titles, of which there may be millions."""
    total, passes = pl.sum_horizontal, list[int]()

    def counted(parts: Iterable[pl.Expr]) -> pl.Expr:
        parts = [*parts]
        passes.append(len(parts))
        return total(parts)

    monkeypatch.setattr(pl, "sum_horizontal", counted)
    nearest("".join(map(chr, range(0x4E00, 0x4E00 + 500))), ITEMS["title"])
    assert passes == [40]


def test_the_nearest_of_many_is_found_among_them() -> None:
    names = pl.Series([f"Film {i}" for i in range(5000)] + ["The Usual Suspects"])
    assert nearest("usual suspect", names)[:1] == ["The Usual Suspects"]


def test_many_typed_titles_are_found_in_little_time() -> None:
    """A few microseconds each: polars took 200 to hash one text."""
    items = pl.DataFrame({"item": [f"i{i}" for i in range(5000)], "title": [f"Title {i % 4000}" for i in range(5000)]})
    catalogue = Catalogue(items)
    catalogue.matches("Title 1", ids=True)
    start = process_time()
    found = [catalogue.matches(f"title  {i}", ids=True) for i in range(5000)]
    assert process_time() - start < 1
    assert [[item.id for item in items] for items in found] == [
        [f"i{i}", *([f"i{4000 + i}"] if i < 1000 else [])] if i < 4000 else [] for i in range(5000)
    ]
