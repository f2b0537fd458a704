"""Vocabularies know training rows only, and travel through a checkpoint."""

import io
from typing import Any

import polars as pl
import pytest
import torch
from tiny import KINDS, typed_samples

from expctr.data.batches import SampleTable, SampleText
from expctr.data.catalogue import Catalogue
from expctr.data.feature_kinds import FeatureKind
from expctr.data.features import UNSEEN, Features, Vocabulary
from expctr.data.history_counts import history_counts
from expctr.data.new_users import NewUser, new_user_samples


def samples() -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"split": "train", "user": "a", "target": "x", "liked": ["y"], "disliked": [], "user_age": 24,
         "target_genres": ["Drama", "War"], "target_title": "X", "label": 1,
         "history": ["y"], "history_liked": [True]},
        {"split": "train", "user": "b", "target": "y", "liked": [], "disliked": ["z", "x"], "user_age": None,
         "target_genres": [], "target_title": "Y", "label": 0,
         "history": ["z", "x"], "history_liked": [False, False]},
        {"split": "test", "user": "c", "target": "w", "liked": ["x", "new", "z"], "disliked": ["y"], "user_age": 21,
         "target_genres": ["War", "New"], "target_title": "W", "label": 1,
         "history": ["x", "y", "new", "z"], "history_liked": [True, False, True, True]},
    ]  # fmt: skip
    titles = [{"liked_titles": [t.upper() for t in row["liked"]], "disliked_titles": []} for row in rows]
    frame = pl.DataFrame([row | title for row, title in zip(rows, titles, strict=True)], infer_schema_length=None)
    names = ("liked", "disliked", "target_genres", "disliked_titles", "history")
    lists = [pl.col(c).cast(pl.List(pl.String)) for c in names]
    never = pl.lit(None, pl.String).alias("user_country")
    return frame.with_columns(*lists, never, sample=pl.Series([0, 1, 2], dtype=pl.Int64))


def test_hand_worked() -> None:
    features = Features.fit(samples())
    # x y z are items of train (2 3 4), w and new are not; ages 20 to 24 share a bucket; no country in train, no field.
    assert features.sizes == {
        "user": 4,
        "target": 5,
        "user_age": 3,
        "target_genres": 4,
        "liked": 5,
        "disliked": 5,
    }
    assert features.shares == {"liked": "target", "disliked": "target"}
    encoded = {name: values.tolist() for name, values in features.encode(samples()).items()}
    assert encoded == {
        "user": [2, 3, 1],
        "target": [2, 3, 1],
        "user_age": [2, 1, 2],
        "target_genres": [[2, 3], [0, 0], [3, 1]],
        "liked": [[3, 0, 0], [0, 0, 0], [2, 1, 4]],
        "disliked": [[0, 0], [4, 2], [3, 0]],
        # training histories hold two at most, so of the four only the last two are read
        "history": [[3, 0], [4, 2], [1, 4]],
        "history_liked": [[2, 0], [1, 1], [2, 2]],
    }
    assert features.vocabulary == Vocabulary(features.sizes, features.shares, history=2)
    assert all(values.dtype == torch.int64 for values in features.encode(samples()).values())


def test_rows_of_other_splits_do_not_change_the_fit() -> None:
    train = samples().filter(split="train")
    assert Features.fit(train).state_dict() == Features.fit(samples()).state_dict()


def test_lists_have_a_column_even_when_all_are_empty() -> None:
    features = Features.fit(samples())
    assert features.encode(samples()[1:2])["liked"].tolist() == [[0]]


def test_through_a_checkpoint() -> None:
    features, file = Features.fit(samples()), io.BytesIO()
    torch.save(features.state_dict(), file)
    file.seek(0)
    loaded = Features.from_state(torch.load(file, weights_only=True))
    loaded.check_same(features)
    assert loaded.encode(samples())["liked"].tolist() == features.encode(samples())["liked"].tolist()


def test_a_difference_is_named_with_both_sizes() -> None:
    fewer = Features.fit(samples().filter(user="a"))
    with pytest.raises(ValueError, match=r"user \(2 in the data, 1 in the checkpoint\), target \(3 in the data, 2"):
        Features.fit(samples()).check_same(fewer)


def test_table_slices_batches() -> None:
    features = Features.fit(samples())
    table = SampleTable.from_samples(samples(), features)
    batch = table.batch(torch.tensor([2, 0]))
    assert batch.sample.tolist() == [2, 0]
    assert batch.label.tolist() == [1.0, 1.0]
    assert batch.label.dtype == torch.float32
    assert batch.features["liked"].tolist() == [[2, 1, 4], [3, 0, 0]]
    assert batch.texts == [SampleText("W", ("X", "NEW", "Z")), SampleText("X", ("Y",))]
    assert table.batch([1], with_text=False).texts == []
    assert len(table) == 3


def test_new_people_and_items_are_all_unseen() -> None:
    features = Features.fit(samples())
    people = [NewUser(SampleText("A")), NewUser(SampleText("B", ("C",), ("D",)))]
    nothing = Catalogue(pl.DataFrame(schema={"item": pl.String, "title": pl.String}))
    table = SampleTable.from_samples(new_user_samples(people, nothing, samples()), features)
    assert table.features["user"].tolist() == table.features["target"].tolist() == [1, 1]
    assert table.features["liked"].tolist() == table.features["disliked"].tolist() == [[0], [1]]
    shapes = {name: values.dim() for name, values in table.features.items()}
    assert shapes == {name: values.dim() for name, values in features.encode(samples()).items()}
    assert table.label.isnan().all()


def test_some_of_the_fields() -> None:
    whole, some = Features.fit(samples()), Features.fit(samples(), ["user", "target_genres", "target"])
    assert some.fields == ["user", "target", "target_genres"]
    assert some.shares == {}
    assert some.sizes.items() <= whole.sizes.items()
    loaded = Features.from_state(some.state_dict())
    for name, values in loaded.encode(samples()).items():
        assert torch.equal(values, whole.encode(samples())[name])


def test_no_field_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.fields is empty"):
        Features.fit(samples(), [])


@pytest.mark.parametrize("fields", [["user", "country"], ["user", "liked"]])
def test_a_field_that_cannot_be_had_is_named(fields: list[str]) -> None:
    with pytest.raises(ValueError, match=f"data.fields: {fields[1]} cannot be used"):
        Features.fit(samples(), fields)


COUNTS = ["history_count", "history_liked_count", "history_liked_share"]


def histories(*counts: tuple[int, int], split: str = "train") -> pl.DataFrame:
    """Rows with so many liked and so many disliked titles."""
    one = samples().row(0, named=True)
    rows = [one | {"split": split, "liked": ["x"] * liked, "disliked": ["z"] * disliked} for liked, disliked in counts]
    return pl.DataFrame(rows, schema=samples().schema)


def decoded(features: Features, rows: pl.DataFrame) -> list[tuple[str, ...]]:
    """The numbers that stand for each row; "?" is the place of unseen values."""
    encoded = features.encode(rows)
    values = [["pad", "?", *features.vocabularies[name]] for name in COUNTS]
    return [
        tuple(of[i] for of, i in zip(values, row, strict=True))
        for row in zip(*(encoded[c].tolist() for c in COUNTS), strict=True)
    ]


def test_counts_of_a_history_keep_their_values_and_shares_are_twentieths() -> None:
    rows = histories((1, 0), (2, 1), (3, 7), (0, 2))
    features = Features.fit(rows, with_counts=True)
    assert decoded(features, rows) == [("1", "1", "1"), ("3", "2", "0.65"), ("10", "3", "0.3"), ("2", "0", "0")]
    assert features.fields[-5:] == [*COUNTS, "liked", "disliked"]
    many = histories(*((i, 50 - i) for i in range(51)), *((0, i) for i in range(51)))
    sizes = Features.fit(many, with_counts=True).sizes
    assert [sizes[name] for name in COUNTS] == [2 + 51, 2 + 51, 2 + 21 + 1]


def test_a_count_without_a_training_row_is_the_nearest_one_that_has_some() -> None:
    features = Features.fit(
        pl.concat([histories((1, 0), (2, 2), (9, 1)), histories((5, 0), split="test")]), with_counts=True
    )
    assert features.vocabularies["history_count"] == ["1", "4", "10"]
    assert decoded(features, histories((0, 2), (3, 4), (40, 0))) == [
        ("1", "1", "0.5"),
        ("4", "2", "0.5"),
        ("10", "9", "1"),
    ]


def test_an_empty_history_has_a_share_of_its_own_or_an_unseen_one() -> None:
    features = Features.fit(histories((1, 0), (0, 0)), with_counts=True)
    assert decoded(features, histories((0, 0), (1, 3))) == [("0", "0", "nan"), ("1", "1", "1")]
    without = Features.fit(histories((1, 0), (2, 2)), with_counts=True)
    assert decoded(without, histories((0, 0))) == [("1", "1", "?")]
    nothing = Features.fit(histories((1, 0), split="test"), with_counts=True)
    assert [nothing.encode(histories((1, 0)))[name].item() for name in COUNTS] == [UNSEEN] * 3


def test_counts_are_those_of_the_titles_that_the_prompt_shows() -> None:
    table = SampleTable.from_samples(samples(), Features.fit(samples(), with_counts=True))
    frame = samples().with_columns(disliked_titles=pl.col("disliked").list.eval(pl.element().str.to_uppercase()))
    shown = SampleTable.from_samples(frame, Features.fit(frame)).texts
    counts = history_counts(samples())
    assert counts["history_count"].to_list() == [len(text.liked) + len(text.disliked) for text in shown]
    assert counts["history_liked_count"].to_list() == [len(text.liked) for text in shown]
    assert {*COUNTS} <= table.features.keys()


def test_counts_join_the_chosen_fields() -> None:
    assert Features.fit(samples(), ["target"], with_counts=True).fields == ["target", *COUNTS]
    assert not {*COUNTS} & {*Features.fit(samples()).fields}


def test_a_run_with_counts_refuses_data_without_and_the_other_way_round() -> None:
    without, with_counts = (Features.fit(samples(), with_counts=counts) for counts in (False, True))
    loaded = Features.from_state(with_counts.state_dict())
    loaded.check_same(with_counts)
    assert loaded.encode(samples())["history_count"].tolist() == [2, 3, 3]
    refused = r"history_count \(0 in the data, 2 in the checkpoint\).*Fix: .*data\.history_counts with which"
    with pytest.raises(ValueError, match=refused) as error:
        without.check_same(loaded)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"history_count \(2 in the data, 0 in the checkpoint\)"):
        with_counts.check_same(without)


def test_new_people_have_the_counts_of_their_titles() -> None:
    features = Features.fit(histories((1, 0), (2, 1), (0, 1)), with_counts=True)
    people = [NewUser(SampleText("A", ("New", "Other"), ("C",))), NewUser(SampleText("B", (), ("D",)))]
    nothing = Catalogue(pl.DataFrame(schema={"item": pl.String, "title": pl.String}))
    assert decoded(features, new_user_samples(people, nothing, samples())) == [("3", "2", "0.65"), ("1", "0", "0")]


def typed(**kinds: FeatureKind) -> tuple[Features, dict[str, list[Any]]]:
    """The features of `typed_samples`, and its rows encoded."""
    rows = typed_samples()
    features = Features.fit(rows, kinds=KINDS | kinds)
    return features, {name: values.tolist() for name, values in features.encode(rows).items()}


def test_each_kind_has_its_indices_and_missing_values_have_their_own() -> None:
    features, encoded = typed()
    assert features.kinds == KINDS | {"target_sizes": "list", "user_member": "boolean"}
    # of 16 training rows every fifth lacks its features; the index after the known values stands for that
    assert encoded["target_brand"][:6] == [4, 2, 3, 4, 5, 3]
    assert encoded["user_member"][:6] == [3, 2, 2, 3, 4, 2]
    assert encoded["target_sizes"][:6] == [[2, 3], [4, 0], [5, 0], [2, 3], [5, 0], [5, 0]]
    assert encoded["target_stock"][:6] == [2, 3, 4, 5, 9, 7]
    sizes = {"target_brand": 6, "user_member": 5, "target_sizes": 6, "target_stock": 10, "target_price": 4}
    assert features.sizes.items() >= sizes.items()
    assert {name: features.missing_index(name) for name in sizes} == {n: size - 1 for n, size in sizes.items()}


def test_numbers_stay_numbers_and_nan_marks_a_missing_one() -> None:
    features, _ = typed()
    price = features.encode(typed_samples())["target_price"]
    assert price.dtype == torch.float32
    # 0 1 2 3 - 5 6 0 1 - 3 4 5 6 - 1: 37 in 13 rows, whose squares sum up to 163
    mean, deviation = 37 / 13, (163 / 13 - (37 / 13) ** 2) ** 0.5
    assert features.numbers == {"target_price": [pytest.approx(mean), pytest.approx(deviation)]}
    assert price[:4].tolist() == pytest.approx([(i - mean) / deviation for i in range(4)], abs=1e-6)
    assert price.isnan().tolist() == [i % 5 == 4 for i in range(24)]


def test_a_value_that_is_new_is_not_one_that_is_missing() -> None:
    features, _ = typed()
    other = typed_samples()[:2].with_columns(
        target_brand=pl.Series(["violet", None]), target_sizes=pl.Series([[99], None], dtype=pl.List(pl.Int64))
    )
    encoded = features.encode(other)
    assert encoded["target_brand"].tolist() == [UNSEEN, 5]
    assert encoded["target_sizes"].tolist() == [[UNSEEN], [5]]


def test_without_a_training_row_that_lacks_a_value_a_missing_one_counts_as_unseen() -> None:
    whole = typed_samples().filter((pl.col("sample") % 5 != 4) & (pl.col("target_sizes").list.len() > 0))
    features = Features.fit(whole, kinds=KINDS)
    assert features.missing == []
    lacking = features.encode(typed_samples()[4:5])
    for name in ("target_brand", "target_stock", "user_member"):
        assert lacking[name].tolist() == [UNSEEN]
    assert lacking["target_sizes"].tolist() == [[UNSEEN]]
    assert lacking["target_price"].isnan().all()
    assert features.sizes["target_price"] == 3  # no row for missing ones, so the table takes the unseen one


def test_whole_numbers_of_a_kind_are_not_floored_to_fives() -> None:
    assert typed()[0].vocabularies["target_stock"] == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0"]
    assert typed(target_stock="category")[0].vocabularies["target_stock"] == [*"0123456"]
    assert Features.fit(typed_samples()).vocabularies["target_stock"] == ["0", "5"]  # as years and ages


def test_a_feature_without_a_value_in_training_rows_is_left_out_with_a_warning() -> None:
    nothing = typed_samples().with_columns(
        target_price=pl.when(split="test").then("target_price"), user_member=pl.lit(None, pl.Boolean)
    )
    with pytest.warns(UserWarning, match="no training row has a value of target_price, user_member"):
        features = Features.fit(nothing, kinds=KINDS)
    assert not {"target_price", "user_member"} & {*features.fields, *features.kinds, *features.missing}


@pytest.mark.filterwarnings("ignore:no training row has a value")
def test_it_cannot_be_asked_for() -> None:
    nothing = typed_samples().with_columns(target_price=pl.lit(None, pl.Float64))
    with pytest.raises(ValueError, match=r"data\.fields: target_price cannot be used"):
        Features.fit(nothing, ["target", "target_price"])


def test_kinds_pass_through_a_checkpoint() -> None:
    features, file = typed()[0], io.BytesIO()
    torch.save(features.state_dict(), file)
    file.seek(0)
    loaded = Features.from_state(torch.load(file, weights_only=True))
    loaded.check_same(features)
    for name, values in loaded.encode(typed_samples()).items():
        torch.testing.assert_close(values, features.encode(typed_samples())[name], rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_of_before_there_were_kinds_loads() -> None:
    features = Features.fit(samples())
    old = {name: features.state_dict()[name] for name in ("vocabularies", "lists", "history")}
    Features.from_state(old).check_same(features)
    assert (features.kinds, features.numbers, features.missing) == ({}, {}, [])


def test_other_numbers_other_kinds_and_other_missing_values_are_named() -> None:
    features = typed()[0]
    dearer = typed_samples().with_columns(pl.col("target_price") * 10)
    message = r"target_price \(number: mean 28\.4\S+ .*, some missing in the data, number: mean 2\.84\S+ .* checkpoint"
    with pytest.raises(ValueError, match=message):
        Features.fit(dearer, kinds=KINDS).check_same(features)
    with pytest.raises(ValueError, match=r"target_stock \(category: 7, .* quantiles: 7, .*data\.features and"):
        typed(target_stock="category")[0].check_same(features)
    filled = typed_samples().with_columns(pl.col("target_brand").fill_null("red"))
    with pytest.raises(ValueError, match=r"target_brand \(category: 3 in the data, category: 3, some missing in"):
        Features.fit(filled, kinds=KINDS).check_same(features)


def test_some_of_the_fields_keep_their_kinds() -> None:
    some = Features.fit(typed_samples(), ["target", "target_price", "target_brand"], kinds=KINDS)
    assert some.fields == ["target", "target_brand", "target_price"]
    assert some.kinds == {"target_price": "number", "target_brand": "category"}
    assert some.missing == ["target_price", "target_brand"]


def test_a_new_item_lacks_all_side_features() -> None:
    features = typed()[0]
    nothing = Catalogue(pl.DataFrame(schema={"item": pl.String, "title": pl.String}))
    rows = new_user_samples([NewUser(SampleText("A new item"))], nothing, typed_samples())
    encoded = features.encode(rows)
    assert encoded["target_price"].isnan().all()
    for name in ("target_brand", "target_stock", "user_member", "target_sizes"):
        assert encoded[name].flatten().tolist() == [features.missing_index(name)], name


def test_a_column_that_is_said_to_be_unused_cannot_control_the_terminal() -> None:
    empty, odd = "user_\x1b]0;x\x07", "user_\x9b31m"
    frame = samples().with_columns(pl.lit(None, pl.Float64).alias(empty), pl.lit(b"x").alias(odd))
    with pytest.warns(UserWarning, match="do not see it") as said:
        Features.fit(frame)
    texts = [str(warning.message) for warning in said]
    assert [text for text in texts if "has a value of" in text]
    assert [text for text in texts if "no kind of feature" in text]
    assert all(text.isprintable() for text in texts)
