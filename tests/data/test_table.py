"""`TableDataModule`: labels, thresholds and negatives that fit each other, splits of one's own, kinds, the cache."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from expctr.data.datamodules import MovieLensDataModule
from expctr.data.options import SampleOptions
from expctr.data.query import make_query
from expctr.data.ratings_module import SplitFiles
from expctr.data.readers.columns import TableColumns
from expctr.data.table import TABLE, TableDataModule
from expctr.errors import DataError, UserError

CLICKS = pl.DataFrame(
    {
        "user_id": [f"u{i % 8}" for i in range(120)],
        "sku": [f"s{i * 7 % 23}" for i in range(120)],
        "clicked": [int(i % 3 == 0) for i in range(120)],
        "ts": [1_700_000_000 + 60 * i for i in range(120)],
        "position": [i % 4 for i in range(120)],
    }
)
ITEMS = pl.DataFrame(
    {
        "sku": [f"s{i}" for i in range(23)],
        "title": [f"Thing {i}" for i in range(23)],
        "price": [None if i == 3 else i * 1.5 for i in range(23)],
        "size": range(23),
        "brand": [f"b{i % 3}" for i in range(23)],
        "tags": [[f"t{i % 2}", "t"] for i in range(23)],
        "new": [i % 2 == 0 for i in range(23)],
    }
)
USERS = pl.DataFrame({"user_id": [f"u{i}" for i in range(8)], "age": range(20, 28)})


def prepared(*tables: Any, **more: Any) -> TableDataModule:
    module = TableDataModule(*tables, **more)
    module.setup()
    return module


def test_features_have_kinds_by_type_or_as_named() -> None:
    data = prepared(CLICKS, ITEMS, USERS)
    assert data.feature_kinds == {
        "target_price": "quantiles",
        "target_size": "quantiles",
        "target_brand": "category",
        "target_tags": "list",
        "target_new": "boolean",
        "user_age": "quantiles",
    }
    assert {*data.feature_kinds} <= {*data.features.fields}
    kinds: Any = {"price": "number", "size": "category", "age": "number", "position": "category"}
    named = prepared(CLICKS, ITEMS, USERS, features=kinds)
    assert named.feature_kinds == {
        "target_price": "number",
        "target_size": "category",
        "user_age": "number",
        "context_position": "category",
    }
    assert "context_position" in named.features.fields
    place = dict(zip(CLICKS["ts"] * 10**6, CLICKS["position"], strict=True))
    assert [int(p) for p in named.samples["context_position"]] == [place[time] for time in named.samples["timestamp"]]


def test_a_sample_has_the_text_and_context_of_its_own_row(tmp_path: Path) -> None:
    """Rows alike in user, item and time, in several files, some of them bad."""
    names = ("user", "item", "title", "label", "ts", "pos", "review")
    rows = [
        (f"u{i % 6}", f"i{i // 12 % 2}", f"T{i // 12 % 2}", str(i // 6 % 2), 5 + i // 24, i, f"r{i}") for i in range(96)
    ]
    frame = pl.DataFrame([row if row[5] != 7 else (*row[:3], "?", *row[4:]) for row in rows], names, orient="row")
    for i in range(4):
        frame[24 * i : 24 * i + 24].write_csv(tmp_path / f"{i}.csv")
    options = SampleOptions(threshold=None, repeats="keep", targets_per_user=99, on_bad_row="skip", min_history=0)
    data = prepared(str(tmp_path / "*.csv"), features={"pos": "number"}, samples=options, cache_dir=str(tmp_path))
    assert data.samples.height == data.samples["context_pos"].n_unique() == 95
    found = data.samples.select("user", "target", "target_title", "label", "context_pos", "review").rows()
    for *ids, label, place, review in found:
        assert (*ids, str(label)) == rows[int(place)][:4]
        assert review == f"r{place:g}"


def test_by_default_the_newest_targets_are_the_test_split() -> None:
    data = prepared(CLICKS, ITEMS)
    times = data.samples.group_by("split", maintain_order=True).agg(pl.min("timestamp"), last=pl.max("timestamp"))
    (_, _, train), (_, first_val, val), (_, first_test, _) = times.rows()
    assert train <= first_val <= val <= first_test


def test_a_random_order_needs_no_split_by_time() -> None:
    data = prepared(CLICKS, ITEMS, samples=SampleOptions(threshold=None, order="shuffle", split=None))
    assert data.samples.height == 8


def test_what_has_the_targets_own_time_is_not_in_its_history() -> None:
    page = CLICKS.with_columns(ts=pl.col("ts") // 3600 * 3600)
    data = prepared(page, ITEMS)
    time = {(user, item): moment for user, item, moment in page.select("user_id", "sku", pl.col("ts") * 10**6).rows()}
    for user, moment, history in data.samples.select("user", "timestamp", "history").rows():
        assert all(time[user, item] < moment for item in history)


def test_a_log_of_one_day_per_user_is_told_of_same_time() -> None:
    daily = CLICKS.with_columns(ts=pl.lit("2024-03-01"))
    with pytest.raises(DataError, match=r"train split is empty.*100% of the rows.*data.samples.same_time: keep"):
        prepared(daily, ITEMS)


@pytest.mark.parametrize("text", ["good", "NULL", "nan", "-", " "])
def test_rows_with_the_same_words_at_one_time_all_count(text: str) -> None:
    """As of one order: only Amazon lists a review under several variants. What says that there is none is none."""
    one_time = CLICKS.with_columns(ts=pl.col("ts") // 86_400 * 86_400, review=pl.lit(text))
    options = SampleOptions(threshold=None, repeats="keep", same_time="keep", targets_per_user=99, min_history=0)
    data = prepared(one_time, ITEMS, samples=options)
    assert data.summary.interactions == CLICKS.height
    assert data.samples["review"].unique().to_list() == ["good" if text == "good" else None]


@pytest.mark.parametrize("dtype", [pl.Int64(), pl.Float64(), pl.String()])
def test_ratings_of_many_digits_are_compared_with_all_of_them(dtype: pl.DataType) -> None:
    """Such as milliseconds watched; of 32-bit floats, the lower one would be rounded up to the threshold."""
    millis = CLICKS.with_columns(watched=(pl.col("clicked") + 16_777_216).cast(dtype)).drop("clicked")
    columns, options = TableColumns(rating="watched"), SampleOptions(threshold=16_777_217)
    liked = dict(CLICKS.select(pl.col("ts") * 10**6, "clicked").iter_rows())
    samples = prepared(millis, ITEMS, columns=columns, samples=options).samples
    assert samples["label"].to_list() == [liked[time] for time in samples["timestamp"]]
    assert samples["label"].n_unique() == 2


@pytest.mark.parametrize(
    ("types", "as_splits"),
    [
        ([pl.Float32] * 3, False),
        ([pl.Float64] * 3, True),
        ([pl.Float64, pl.Float32, pl.Float64], False),
        ([pl.Float32, pl.Float64, pl.String], True),
    ],
)
def test_short_decimals_are_compared_as_they_are_written(types: list[Any], as_splits: bool, tmp_path: Path) -> None:
    """0.7 as a float of 32 bits is less than 0.7, and as one of 64 bits it is not."""
    shares = CLICKS.with_columns(share=0.6 + pl.col("clicked") / 10).drop("clicked")
    files = [tmp_path / name for name in ("1.parquet", "2.parquet", "3.parquet")]
    for place, (path, dtype) in enumerate(zip(files, types, strict=True)):
        shares[40 * place : 40 * (place + 1)].cast({"share": dtype}).write_parquet(path)
    options: dict[str, Any] = {"columns": TableColumns(rating="share"), "samples": SampleOptions(threshold=0.7)}
    if as_splits:
        rated = prepared(items=ITEMS, splits=SplitFiles(*map(str, files)), **options).samples
    else:
        rated = prepared(str(tmp_path), ITEMS, **options).samples
    assert rated["label"].to_list() == [int(rating > 0.65) for rating in rated["rating"]]
    assert rated["label"].n_unique() == 2


def test_a_category_of_whole_numbers_is_one_in_all_files(tmp_path: Path) -> None:
    """A value is 3.0 in a file that pandas wrote, another value of the column is missing."""
    half = CLICKS.height // 2
    CLICKS[:half].write_csv(tmp_path / "1.csv")
    CLICKS[half:].with_columns(pl.col("position").cast(pl.Float64)).write_csv(tmp_path / "2.csv")
    assert ".0," in (tmp_path / "2.csv").read_text() or ".0\n" in (tmp_path / "2.csv").read_text()
    data = prepared(str(tmp_path), ITEMS, features={"position": "category"})
    values = {value for value in data.samples["context_position"] if value is not None}
    assert values
    assert values <= {*map(str, CLICKS["position"])}


@pytest.mark.parametrize("values", [[0, 1], ["no", "yes"], [False, True]])
def test_labels_under_a_name_of_ones_own_are_a_doubt_where_negatives_are_drawn(values: list[Any]) -> None:
    """All rows would count as likes, those that nobody clicked, too."""
    column = pl.col("clicked").replace_strict([0, 1], values).alias("was_clicked")
    own = CLICKS.with_columns(column, pl.lit(1).alias("shown")).drop("clicked")
    options = SampleOptions(threshold=None, negatives=1)
    (doubt,) = [doubt for doubt in prepared(own, ITEMS, samples=options).summary.doubts if "was_clicked" in doubt]
    assert "every row counts as a positive, and the column was_clicked, which is not used, has 1 and 0. Fix: " in doubt
    assert "shown" not in doubt
    named = prepared(own, ITEMS, samples=SampleOptions(threshold=None), columns=TableColumns(label="was_clicked"))
    assert not named.summary.doubts


def test_labels_thresholds_and_negatives_must_fit() -> None:
    ratings = CLICKS.with_columns(stars=pl.col("clicked") * 7 - 2).drop("clicked")
    rated = prepared(ratings, ITEMS, samples=SampleOptions(threshold=3)).samples
    assert [label == 1 for label in rated["label"]] == [rating == 5 for rating in rated["rating"]]
    with pytest.raises(UserError, match=r"data.samples.threshold is not set, and stars is a rating"):
        prepared(ratings, ITEMS)
    with pytest.raises(UserError, match=r"data.samples.threshold: clicked is a label"):
        prepared(CLICKS, ITEMS, samples=SampleOptions(threshold=1))
    with pytest.raises(
        UserError, match=r"no column .* a label or a rating; they have user_id, .* data.samples.negatives"
    ):
        prepared(CLICKS.drop("clicked"), ITEMS)
    with pytest.raises(UserError, match=r"have the label 1, .* data.samples.negatives"):
        prepared(CLICKS.with_columns(clicked=1), ITEMS)
    with pytest.raises(UserError, match=r"have the label 0, .* data.columns.label"):
        prepared(CLICKS.with_columns(clicked=0), ITEMS)
    with pytest.raises(UserError, match=r"data.columns.label and data.columns.rating are both set"):
        TableDataModule(CLICKS, columns=TableColumns(label="clicked", rating="position"))
    files = SplitFiles("a.csv", "b.csv", "c.csv")
    with pytest.raises(UserError, match=r"data.splits and data.columns.split both say"):
        TableDataModule(splits=files, columns=TableColumns(split="fold"))
    with pytest.warns(UserWarning, match=r"data.interactions is not used"):
        TableDataModule("clicks.csv", splits=files)
    with pytest.raises(UserError, match=r"data.interactions is not set"):
        TableDataModule()
    both = CLICKS.with_columns(rating=pl.lit(9.0))
    assert prepared(both, ITEMS).samples.equals(prepared(CLICKS, ITEMS).samples)
    named = prepared(both.with_columns(rating=pl.col("position")), ITEMS, columns=TableColumns(rating="rating"),
                     samples=SampleOptions(threshold=2))  # fmt: skip
    assert {*named.samples["rating"].to_list()} <= {0, 1, 2, 3}


def test_positives_only_with_negatives() -> None:
    options = SampleOptions(threshold=None, negatives=2, targets_per_user=5)
    data = prepared(CLICKS.drop("clicked"), ITEMS, samples=options)
    assert data.samples["label"].mean() == pytest.approx(1 / 3)
    drawn = data.samples.filter(label=0).row(0, named=True)
    assert make_query(data, user=drawn["user"], target=drawn["target_title"]).label is None  # nobody said no


def test_splits_by_a_column_are_those_by_files(tmp_path: Path) -> None:
    names = {"train": "train", "valid": "val", "Test": "test"}
    clicks = CLICKS.with_columns(fold=pl.Series([[*names][(i > 80) + (i > 100)] for i in range(120)]))
    for given, name in names.items():
        clicks.filter(fold=given).drop("fold").write_csv(tmp_path / f"{name}.csv")
    files = SplitFiles(*(str(tmp_path / f"{name}.csv") for name in ("train", "val", "test")))
    by_column = prepared(clicks, ITEMS, columns=TableColumns(split="fold"))
    assert "rows by split: train 81, val 20, test 19" in by_column.summary.counts
    by_files = prepared(None, ITEMS, splits=files, cache_dir=str(tmp_path / "cache"))
    assert by_column.samples.equals(by_files.samples)
    assert by_column.summary.rows == 120
    assert by_column.users.equals(by_files.users)


def test_the_cache_knows_columns_and_features(tmp_path: Path) -> None:
    CLICKS.with_columns(bought=1 - pl.col("clicked")).write_parquet(tmp_path / "clicks.parquet")
    ITEMS.write_parquet(tmp_path / "items.parquet")
    files = (str(tmp_path / "clicks.parquet"), str(tmp_path / "items.parquet"))
    first = prepared(*files, cache_dir=str(tmp_path))
    again = prepared(*files, cache_dir=str(tmp_path))
    assert again.samples.equals(first.samples)
    assert again.feature_kinds == first.feature_kinds
    assert again.catalogue.items.sort("item").equals(first.catalogue.items.sort("item"))
    assert len([*tmp_path.glob("*.json")]) == 2  # the samples and the items
    other = prepared(*files, cache_dir=str(tmp_path), columns=TableColumns(label="bought"))
    assert other.samples["label"].to_list() == [1 - label for label in first.samples["label"]]
    priced = prepared(*files, cache_dir=str(tmp_path), features={"price": "number"})
    assert [name for name in priced.samples.columns if name.startswith("target_")] == ["target_title", "target_price"]


def test_missing_titles_are_found_from_the_cache_too(tmp_path: Path) -> None:
    CLICKS.write_csv(tmp_path / "clicks.csv")
    for _ in range(2):
        data = TableDataModule(str(tmp_path / "clicks.csv"), cache_dir=str(tmp_path))
        data.prepare_data()
        assert any(found.startswith("no titles") for found in data.findings)


def test_users_titles_and_people_are_found(tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("liked_titles,disliked_titles,target_title\nThing 1|Thing 2,,Thing 3\n,Thing 4,New thing\n")
    data = prepared(CLICKS, ITEMS, USERS, people=str(people))
    assert data.users.to_list() == [f"u{i}" for i in range(8)]
    rated = data.ratings_of(["u1"])
    last = CLICKS.filter(user_id="u1").unique("sku", keep="last", maintain_order=True)
    assert rated["item"].to_list() == last["sku"].to_list()
    assert rated["liked"].to_list() == [bool(clicked) for clicked in last["clicked"]]
    assert make_query(data, user="u1", target="Thing 2").rows["user_age"].unique().to_list() == [21]
    assert [text.target for text in data.table("predict").texts] == ["Thing 3", "New thing"]


def test_defaults_do_not_warn_of_options_without_effect(recwarn: pytest.WarningsRecorder) -> None:
    TableDataModule(splits=SplitFiles("a", "b", "c"))
    TableDataModule(splits=SplitFiles("a", "b", "c"), samples=TABLE)
    assert not recwarn.list


def test_a_table_of_items_that_has_none_of_the_ids_is_said_though_titles_are_elsewhere(tmp_path: Path) -> None:
    titled = CLICKS.with_columns(title=pl.lit("Thing"))
    items = ITEMS.drop("title").with_columns(sku=pl.format("item/{}", "sku"))
    (said,) = prepared(titled, items).summary.unmatched
    assert "23 of 23 ids of items of samples are not in the rows of data.items: 's" in said
    assert "'item/s" in said
    assert not prepared(titled, ITEMS.drop("title")).summary.unmatched


def test_users_whom_their_table_does_not_have_are_counted_or_explained() -> None:
    """Two of eight."""
    lost = prepared(CLICKS, ITEMS, USERS[2:]).summary
    assert lost.counts == ["2 of 8 users with samples are not in the rows of data.users"]
    assert not lost.unmatched
    other = pl.when(pl.col("age") < 22).then(pl.format("0{}", "user_id")).otherwise("user_id")
    (said,) = prepared(CLICKS, ITEMS, USERS.with_columns(user_id=other)).summary.unmatched
    assert said.startswith("2 of 8 ids of users with samples are not in the rows of data.users: 'u0', 'u1'; there ")
    assert "leading zeros" in said


def test_what_is_counted_is_known_from_the_cache_too(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("clicks.csv", "items.csv", "users.csv")]
    for table, path in zip((CLICKS, ITEMS.drop("tags"), USERS[2:]), paths, strict=True):
        table.write_csv(path)
    for _ in range(2):
        summary = prepared(*paths, cache_dir=str(tmp_path / "cache")).summary
        assert summary.counts == ["2 of 8 users with samples are not in the rows of users.csv"]


@pytest.mark.parametrize("items", [None, ITEMS.drop("title"), ITEMS.with_columns(title=None)])
def test_items_with_several_titles_are_counted_and_the_first_counts(items: pl.DataFrame | None) -> None:
    """Two items have a second title: s0 in two rows, and s1 in one."""
    titles = (
        pl.when(pl.int_range(pl.len()).is_in([0, 23, 24])).then(pl.lit("Another")).otherwise(pl.format("T {}", "sku"))
    )
    log = CLICKS.with_columns(sku=pl.format("s{}", pl.int_range(pl.len()) % 23)).with_columns(title=titles)
    data = TableDataModule(log, items)
    data.prepare_data()
    reason = "another title of an item in the interactions, such as 'T s0' of s0, 'Another'"
    assert data._prepared[1].side_dropped == {reason: 2}
    assert any(f"({reason}: 2 in all). Fix: " in text for text in data.findings)
    assert {*data._prepared[0].filter(target="s1")["target_title"]} <= {"Another"}


def test_features_may_have_any_name() -> None:
    odd = {"brand": "place", "new": "seen", "size": "^s.*$", "price": "*"}
    items = ITEMS.rename(odd)
    samples, plain = prepared(CLICKS, items).samples, prepared(CLICKS, ITEMS).samples
    for was, now in odd.items():
        assert samples[f"target_{now}_"].to_list() == plain[f"target_{was}"].to_list()
    assert samples["target_title"].to_list() == plain["target_title"].to_list()


def test_notes_are_of_the_files_as_they_are_now(tmp_path: Path) -> None:
    ratings = [f"{u}\t{i}\t{1 + i % 5}\t{i}" for u in range(20) for i in range(8)]
    (tmp_path / "u.data").write_text("\n".join(ratings))
    (tmp_path / "u.item").write_text("\n".join(f"{i}|T{i}|01-Jan-1995||x|" + "|".join("0" * 19) for i in range(8)))

    def notes() -> list[str]:
        data = MovieLensDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
        data.setup()
        return data.summary.notes

    assert notes() == []
    (tmp_path / "u.data.part").touch()
    assert notes() == ["not used: file u.data.part"]


def test_a_user_is_found_in_a_log_with_features_of_its_rows() -> None:
    data = prepared(CLICKS, ITEMS, features={"position": "category"})
    assert "context_position" in data.samples.columns
    assert set(data.ratings_of(["u3"])["item"]) == set(CLICKS.filter(user_id="u3")["sku"])
    never_had = min({*ITEMS["sku"]} - {*CLICKS.filter(user_id="u3")["sku"]})
    asked = make_query(data, "u3", target=f"id:{never_had}").rows
    assert asked["context_position"].null_count() == asked.height


def test_what_readers_doubt_is_a_finding() -> None:
    clicks = CLICKS.with_columns(ts=pl.Series([i * 37 % 50 for i in range(120)]))
    data = prepared(clicks, ITEMS)
    data.prepare_data()
    assert any("column ts: most times are within 1970" in finding for finding in data.findings)


def test_items_of_one_title_are_a_finding() -> None:
    data = prepared(CLICKS, ITEMS.with_columns(title=pl.lit("Product")))
    data.prepare_data()
    assert any("all 23 items have one title, 'Product'" in finding for finding in data.findings)


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_titles_that_a_missing_one_made_floats_are_whole_numbers(kind: str, tmp_path: Path) -> None:
    items = ITEMS.with_columns(title=pl.Series([None, *(1900.0 + i for i in range(1, 23))]))
    path = str(tmp_path / f"items.{kind}")
    items.write_json(path) if kind == "json" else items.write_parquet(path)
    titles = prepared(CLICKS, path, cache_dir=str(tmp_path)).samples["target_title"].unique()
    assert {*titles} <= {str(1900 + i) for i in range(1, 23)}
    assert len(titles) > 10


SNAPSHOTS = pl.concat([ITEMS.with_columns(title="title" + pl.lit(f" of {day}"), day=pl.lit(day)) for day in (3, 5, 4)])


@pytest.mark.parametrize("column", ["updated_at", "Date", "valid_on"])
def test_of_several_rows_of_an_item_the_last_by_a_known_time_counts(column: str, tmp_path: Path) -> None:
    dated = SNAPSHOTS.with_columns(pl.format("2024-01-0{}", "day").alias(column)).drop("day", "tags")
    for day in (3, 5, 4):
        dated.filter(pl.col(column) == f"2024-01-0{day}").write_csv(tmp_path / f"{day}.csv")
    dated.write_csv(tmp_path / "all.csv")
    columns = TableColumns(timestamp="valid_on") if column == "valid_on" else TableColumns()
    clicks = CLICKS.rename({"ts": "valid_on"}) if column == "valid_on" else CLICKS
    for items in (dated, str(tmp_path / "all.csv"), str(tmp_path / "[345].csv")):
        data = prepared(clicks, items, columns=columns, cache_dir=str(tmp_path))
        assert {title.partition(" of ")[2] for title in data.samples["target_title"]} == {"5"}
        (reason,) = [reason for reason in data.summary.side_dropped if "differ" in reason]
        assert "several rows that differ of one item, such as 's0' in rows" in reason
        assert reason.endswith(f"the last by {column} counts")
        assert data.summary.side_dropped[reason] == 2 * 23
        data.prepare_data()
        assert not [finding for finding in data.findings if "differ" in finding]


def test_without_a_time_the_first_row_of_an_item_counts_and_it_is_a_finding(tmp_path: Path) -> None:
    items = pl.concat([SNAPSHOTS, SNAPSHOTS[:2], ITEMS.with_columns(title=None, day=9)], how="diagonal_relaxed")
    data = prepared(CLICKS, items.drop("day"))
    assert {title.partition(" of ")[2] for title in data.samples["target_title"]} == {"3"}
    data.prepare_data()
    assert [finding for finding in data.findings if "differ" in finding] == [
        "data.items: several rows that differ of one item, such as 's0' in rows 1 and 24; without times, the first "
        "counts (71 rows are not used). Fix: keep one row of each, or add a column updated_at (2024-04-30), by which "
        "the last one counts"
    ]
    same = prepared(CLICKS, pl.concat([ITEMS, ITEMS[:5]]))
    assert same.summary.side_dropped == {"data.items: item listed twice": 5}
    same.prepare_data()
    assert not [finding for finding in same.findings if "twice" in finding]


def test_rows_of_one_time_and_times_that_cannot_be_read_are_findings() -> None:
    dated = SNAPSHOTS.drop("tags").with_columns(
        valid_from=pl.when(pl.col("day") == 4, pl.col("sku") == "s2")
        .then(pl.lit("9999-12-31"))
        .otherwise(pl.when(pl.col("sku") < "s2").then(pl.lit("2024-01-03")).otherwise(pl.format("2024-01-0{}", "day")))
    )
    data = prepared(CLICKS, dated.drop("day"))
    titles = dict(data.samples.select("target", "target_title").iter_rows())
    assert (titles["s1"], titles["s2"], titles["s3"]) == ("title of 3", "title of 5", "title of 5")
    data.prepare_data()
    times = "times that cannot be read or lost their last digits, so these rows count as the oldest"
    assert [finding for finding in data.findings if "differ" in finding or times in finding] == [
        "data.items: several rows that differ of one item, such as 's0' in rows 1 and 24; they have the same "
        "valid_from, and the first counts (24 rows are not used). Fix: keep one row of each",
        f"data.items, column valid_from: {times}, such as '9999-12-31' in row 49 (1 rows). Fix: write all times of the "
        "column in one form, with all digits",
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_time_that_lost_its_digits_makes_no_row_the_latest(kind: str, tmp_path: Path) -> None:
    """Here the users': one file was saved by a spreadsheet, or as 32-bit floats."""
    seconds = 1_690_000_000
    exact = USERS.with_columns(age=pl.col("age") + 100, as_of=pl.lit(seconds) + pl.int_range(pl.len()))
    rounded = pl.lit("1.7E+09") if kind == "csv" else pl.lit(seconds + 10**7, pl.Float32)
    later = USERS.with_columns(as_of=rounded)
    for name, users in (("a", exact), ("b", later)):
        users.write_csv(tmp_path / f"{name}.csv") if kind == "csv" else users.write_parquet(
            tmp_path / f"{name}.parquet"
        )
    data = prepared(CLICKS, ITEMS, str(tmp_path / f"*.{kind}"))
    assert data.samples["user_age"].min() > 100
    data.prepare_data()
    (finding,) = [finding for finding in data.findings if "last digits" in finding]
    assert f"({USERS.height} rows). Fix: write all times of the column in one form" in finding


def test_a_latest_row_that_does_not_count_for_want_of_a_title_is_a_finding() -> None:
    dated = SNAPSHOTS.drop("tags").with_columns(
        title=pl.when(pl.col("day") < 5).then("title"), as_of=pl.format("2024-01-0{}", "day")
    )
    data = prepared(CLICKS, dated.drop("day"))
    assert {title.partition(" of ")[2] for title in data.samples["target_title"]} == {"4"}
    data.prepare_data()
    (finding,) = [finding for finding in data.findings if "differ" in finding]
    assert "; the last by as_of with a title counts (46 rows are not used). Fix: give each row its title" in finding
    undated = pl.concat([ITEMS.with_columns(title=pl.lit(None, pl.String)), ITEMS])
    data = prepared(CLICKS, undated)
    data.prepare_data()
    (finding,) = [finding for finding in data.findings if "differ" in finding]
    assert "; the first with a title counts (23 rows are not used). Fix: give each row its title" in finding


def test_a_published_table_is_not_advised_to_add_a_column_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Heat,Crime\n1,Fargo,Crime\n2,Up,Family\n")
    ratings = "".join(f"{user},{movie},{1 + user % 5},{user}\n" for user in range(1, 9) for movie in (1, 2))
    (tmp_path / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{ratings}")
    data = MovieLensDataModule(str(tmp_path), cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    (finding,) = [finding for finding in data.findings if "differ" in finding]
    assert finding.endswith("; the first counts (1 rows are not used). Fix: keep one row of each")


def test_users_that_are_listed_again_are_counted_likewise() -> None:
    users = pl.concat([USERS, USERS[2:3].with_columns(age=pl.lit(70, pl.Int64))])
    assert prepared(CLICKS, ITEMS, users).summary.side_dropped == {
        "data.users: several rows that differ of one user, such as 'u2' in rows 3 and 9; without times, the first "
        "counts": 1
    }


def test_titles_of_any_length_are_cut_counted_and_found_as_typed(tmp_path: Path) -> None:
    longer = pl.when(pl.col("sku").is_in(["s2", "s5"])).then(pl.format("{}{}", "title", pl.lit(" long" * 10_000)))
    items = ITEMS.with_columns(title=pl.coalesce(longer, "title"))
    data = prepared(CLICKS, items)
    assert data.samples["target_title"].str.len_chars().max() == 2048
    assert data.summary.side_dropped == {"data.items: what titles have after 2,048 characters": 2}
    (item,) = data.catalogue.matches("thing 5" + " long" * 10_000)
    assert item.id == "s5"
    log = CLICKS.join(items.select("sku", "title"), on="sku")
    assert prepared(log).summary.side_dropped == {"data.interactions: what titles have after 2,048 characters": 2}


def test_a_long_title_of_a_history_is_that_of_its_item() -> None:
    titles = [f"T{i}" + " long" * 1000 * (i % 2) for i in range(5)]
    rows = [
        {"user": f"u{i}", "history": [titles[i % 5]], "history_labels": [1], "item": f"i{i % 4}"} for i in range(40)
    ]
    log = pl.DataFrame(rows).with_columns(label=pl.int_range(pl.len()) % 2)
    data = prepared(log, pl.DataFrame({"item": [f"i{i}" for i in range(5)], "title": titles}))
    found = {*data.samples.select(pl.col("history").explode(), pl.col("liked_titles").explode().str.len_chars()).rows()}
    assert found <= {("i0", 2), ("i1", 2048), ("i2", 2), ("i3", 2048), ("i4", 2)}
    assert len(found) > 2
