"""Each release of the Amazon reviews gives the same typed tables."""

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from tiny import rows, write

from expctr.data.readers import amazon
from expctr.errors import DataError

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
    with pytest.raises(DataError, match=r"Looked for .*reviews_Toys.json"):
        amazon.read(folder, "Toys")


def items_of(folder: Path, *meta: Mapping[str, object]) -> list[dict[str, object]]:
    """The items of some lines of metadata of 2018, as samples use them."""
    lines = "\n".join(json.dumps({"asin": f"B{i}"} | dict(line)) for i, line in enumerate(meta))
    write(folder, {"Books.json": json.dumps(OF_2014), "meta_Books.json": lines})
    return amazon.read(folder).items.collect_unique("item", "error", Counter()).to_dicts()


@pytest.mark.parametrize(
    ("raw", "title"),
    [
        ("var aPageStart = (new Date()).getTime();", None),
        ('<span id="t">x</span>', None),
        ("A <BR/> B", None),
        ("", None),
        ("I <3 cats", "I <3 cats"),
        ("The <unknown> Man", "The <unknown> Man"),
        ("<bold> moves", "<bold> moves"),
        ("a < b and c > d", "a < b and c > d"),
        ("R&amp;D, Cats &c. &amp; Q&A", "R&D, Cats &c. & Q&A"),
        ("&amp;quot;Caf&eacute;&amp;quot; &#8211; &#x41;", '"Café" – A'),
        ("&amp;amp;amp; &nosuch;", "&amp; &nosuch;"),  # twice, not more
        ("&copy", "&copy"),
    ],
)
def test_amazon_titles(tmp_path: Path, raw: str, title: str | None) -> None:
    assert [row["title"] for row in items_of(tmp_path, {"title": raw})] == [title]


def test_amazon_brands_and_categories(tmp_path: Path) -> None:
    brand, category = "Visit Amazon&#39;s A. B. Page", ["A &amp;amp; B", "A & B", 'the "C"']
    (item,) = items_of(tmp_path, {"title": "x", "brand": brand, "category": category})
    assert (item["brand"], item["categories"]) == ("A. B.", ["A & B", 'the "C"'])


def test_a_second_row_may_hold_the_title_that_the_first_one_lacks(tmp_path: Path) -> None:
    rows = items_of(
        tmp_path, {"title": "A"}, {"asin": "B", "title": ""}, {"asin": "B", "title": "Late"}, {"title": "C"}
    )
    assert [(row["item"], row["title"]) for row in rows] == [("B0", "A"), ("B", "Late"), ("B3", "C")]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reviews_are_read_by_their_places(tmp_path: Path, suffix: str) -> None:
    lines = [json.dumps(OF_2014 | {"asin": f"B{i}", "reviewText": f"é {i}"}).encode() for i in range(5)]
    content = b"\xef\xbb\xbf" + b"\r\n\r\n".join([*lines, b"no JSON"])
    (tmp_path / f"Books.json{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    table = amazon.read_interactions(tmp_path / f"Books.json{suffix}")
    frame = table.collect(["item", "place", "review"], "skip", Counter())
    assert frame.height == 5
    assert table.texts_at is not None
    for order in ([4, 0, 4, 2], []):
        rows = frame[order]
        assert table.texts_at(rows["place"], "review").to_list() == rows["review"].to_list()
