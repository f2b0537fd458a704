"""The CSV of new users."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from tiny import write

from expctr.data.batches import SampleText
from expctr.data.catalogue import Catalogue
from expctr.data.new_users import NewUser, new_user_samples, read_new_users
from expctr.errors import DataError

HEADER = "user,liked_titles,disliked_titles,target_title\n"


def test_titles(tmp_path: Path) -> None:
    folder = write(tmp_path, {"new.csv": HEADER + 'ann,"Alien | Heat, The",,Kids\n,,Casper,"M"\n'})
    ann, other = read_new_users(folder / "new.csv")
    assert ann.text == SampleText("Kids", ("Alien", "Heat, The"), ())
    assert other.text == SampleText("M", (), ("Casper",))
    assert (ann.user, ann.target, other.user) == ("ann", "", "")


def test_a_compressed_file_is_read_by_its_content_and_a_title_may_have_a_line_break(tmp_path: Path) -> None:
    content = (HEADER + 'ann,Alien,,"The\nKids"\n').encode()
    write(tmp_path, {"new.csv": content, "new.csv.gz": gzip.compress(content), "packed.csv": gzip.compress(content)})
    plain = read_new_users(tmp_path / "new.csv")
    assert len(plain) == 1
    for name in ("new.csv.gz", "packed.csv"):
        assert read_new_users(tmp_path / name) == plain
    write(tmp_path, {"cut.csv.gz": gzip.compress(content)[:-9]})
    with pytest.raises(DataError, match=r"cannot read .*cut\.csv\.gz"):
        read_new_users(tmp_path / "cut.csv.gz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("liked_titles,target_title\n", "missing column, .*new.csv, row 1, column disliked_titles"),
        (HEADER + "a,b,c,d\na,Heat, The,c,d\n", "too many columns, .*new.csv, row 3, column 5 of 4.*quotes around"),
        (HEADER.strip() + ",\na,b,c,d\n", "too few columns, .*new.csv, row 2, column 5"),
        (HEADER + "a,b\n", "too few columns, .*new.csv, row 2, column disliked_titles"),
        (HEADER + "a,b,c,d\na,b,c,NULL\n", "no title, .*new.csv, row 3, column target_title"),
        (
            HEADER + "a,,c,d\na,b,\"('c','e')\",d\n",
            "list cannot be read, .*, row 3, column disliked_titles.*Fix: write",
        ),
        (HEADER + "a,b,c, \n", "no title, .*new.csv, row 2, column target_title"),
        ((HEADER + "a,b,c,d\na,Café,c,d\n").encode("latin-1"), "undecodable bytes, .*, row 3, column liked.*UTF-8"),
        ((HEADER + "a,b,c,d\n").encode("utf-16"), "the file is UTF-16.*Fix: save it as UTF-8"),
        (HEADER, "no rows in .*new.csv. Fix: write one row for each person"),
        (HEADER + "\n\n", "no rows in .*new.csv. Fix: "),
        ("", "missing column, .*new.csv, row 1, column liked_titles"),
        (HEADER + "1,a,b,c,d\n2,a,b,c,d\n", "names of rows without a column, .*row.names = FALSE"),
        (HEADER + 'a,b,c,"d\na,b,c,d\n', "not a row of CSV, .*new.csv, row 2: .*Fix: close each quote"),
    ],
)
def test_bad_rows(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_new_users(write(tmp_path, {"new.csv": content}) / "new.csv")


def test_an_id_chooses_between_items_with_the_same_title() -> None:
    items = pl.DataFrame({"item": ["1", "2"], "title": ["Heat", "Heat"], "year": [1986, 1995]})
    like = pl.DataFrame(
        schema={"sample": pl.Int64, "target": pl.String, "target_title": pl.String, "target_year": pl.Int64}
    )
    users = [NewUser(SampleText("Heat", (), ()), target=named) for named in ("", "2")]
    rows = new_user_samples(users, Catalogue(items), like)
    assert rows["target"].to_list() == ["", "2"]
    assert rows["target_year"].to_list() == [None, 1995]


ITEMS = pl.DataFrame({"item": ["12", "13"], "title": ["Heat", "Fargo"], "year": [1995, 1996]})
LIKE = pl.DataFrame(
    schema=dict.fromkeys(("sample", "target", "target_title", "target_year"), pl.String)
    | {name: pl.List(pl.String) for name in ("liked", "liked_titles", "disliked", "disliked_titles", "history")}
    | {"sample": pl.Int64, "target_year": pl.Int64, "history_liked": pl.List(pl.Boolean)}
)


def test_a_title_that_is_typed_several_times_is_one_entry_as_in_a_query() -> None:
    users = [NewUser(SampleText("Up", ("Fargo", "FARGO", "Big", "Big"), ("Heat", "Heat (1995)")))]
    (row,) = new_user_samples(users, Catalogue(ITEMS), LIKE).to_dicts()
    assert (row["liked_titles"], row["disliked_titles"]) == (["Fargo", "Big"], ["Heat"])


HEADED = "target,target_title,liked_titles,disliked_titles\n"


def test_an_id_and_a_title_that_disagree_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"new.csv": f"{HEADED}13,Fargo,,\n12,Fargo,,\n"}) / "new.csv"
    with pytest.raises(DataError) as caught:
        new_user_samples(read_new_users(path), Catalogue(ITEMS), LIKE, path)
    assert str(caught.value) == (
        f"item 12 is called 'Heat', not 'Fargo', {path}, row 3, column target_title. Fix: correct the title or the id "
        "in the column target, or leave the id empty"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("14,Fargo,,", "no item with a title has the id 14, {}, row 3, column target. Fix: correct the id, or leave"),
        (",Up,fargo|Big,Fargo (1996)", "'Fargo' is in both lists, {}, row 3, column disliked_titles. Fix: remove it"),
        (",Up,Big,Big", "'Big' is in both lists, {}, row 3"),
        (",Up,Big ship,big  Ship", "'big  Ship' is in both lists, {}, row 3"),
    ],
)
def test_an_unknown_id_and_a_title_in_both_lists_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path, {"new.csv": f"{HEADED}NULL,Up,Heat,Fargo\n{row}\n"}) / "new.csv"
    with pytest.raises(DataError) as caught:
        new_user_samples(read_new_users(path), Catalogue(ITEMS), LIKE, path)
    assert str(caught.value).startswith(message.format(path))


def test_lists_are_read_as_those_of_pairs(tmp_path: Path) -> None:
    content = HEADER + '\\N,"[""Alien"", ""Heat, The"", null, ""-""]",-,Up\n'
    (user,) = read_new_users(write(tmp_path, {"new.csv": content}) / "new.csv")
    assert user == NewUser(SampleText("Up", ("Alien", "Heat, The"), ()), row=2)


def test_columns_are_found_by_names_with_blanks_or_in_capitals(tmp_path: Path) -> None:
    folder = write(
        tmp_path, {"new.csv": "User, Target,liked_titles, Disliked Titles,target_title\nann,7,Alien,Heat,M\n"}
    )
    (ann,) = read_new_users(folder / "new.csv")
    assert (ann.user, ann.target, ann.text) == ("ann", "7", SampleText("M", ("Alien",), ("Heat",)))
    write(tmp_path, {"new.csv": "User,USER,liked_titles,disliked_titles,target_title\na,b,Alien,,M\n"})
    with pytest.raises(DataError, match=r"new\.csv: columns User, USER could all be user\. Fix: "):
        read_new_users(folder / "new.csv")


@pytest.mark.parametrize("title", ["Heat", "Heat (1995)", "  hEAT", "id:12"])
def test_titles_agree_as_the_catalogue_compares_them(title: str) -> None:
    rows = new_user_samples([NewUser(SampleText(title), target="12")], Catalogue(ITEMS), LIKE)
    assert rows.select("target", "target_title").rows() == [("12", "Heat")]


@pytest.mark.parametrize("target", ["Heat", "Something new"])
def test_the_target_is_not_in_its_own_history(target: str) -> None:
    text = SampleText(target, ("Fargo", target), (target,))
    (row,) = new_user_samples([NewUser(text)], Catalogue(ITEMS), LIKE).iter_rows(named=True)
    assert (row["liked_titles"], row["disliked_titles"], row["history"]) == (["Fargo"], [], ["13"])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_new_users(tmp_path / "new.csv")
