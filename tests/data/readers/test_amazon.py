"""Each release of the Amazon reviews gives the same typed tables."""

import gzip
import json
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


def test_amazon_title_of_scraped_script_is_none(tmp_path: Path) -> None:
    titles = ["var aPageStart = (new Date()).getTime();", '<span id="t">x</span>', "I <3 cats", ""]
    meta = "\n".join(json.dumps({"asin": f"B{i}", "title": title}) for i, title in enumerate(titles))
    tables = amazon.read(write(tmp_path, {"Books.json": json.dumps(OF_2014), "meta_Books.json": meta}))
    assert [row["title"] for row in rows(tables.items)] == [None, None, "I <3 cats", None]
