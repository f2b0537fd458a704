"""Field embeddings: what each cell of the output is made of, and what gets a gradient."""

import pytest
import torch

from expctr.ctr.embedding import FieldEmbeddings, HistoryVectors
from expctr.data.features import UNSEEN

SIZES = {"user": 5, "target": 7, "genres": 4}
SHARES = {"liked": "target", "disliked": "target"}


def make(oov_rate: float = 0.0) -> FieldEmbeddings:
    torch.manual_seed(0)
    return FieldEmbeddings(SIZES, SHARES, dim=3, oov_rate=oov_rate)


def features(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "user": torch.tensor([1, 4]),
        "target": torch.tensor([2, 6]),
        "genres": torch.tensor([[1, 3], [2, 0]]),
        "liked": torch.tensor([[3, 6, 0], [0, 0, 0]]),
        "disliked": torch.tensor([[2], [5]]),
        "sample": torch.tensor([10, 11]),
    } | changed


def one(table: FieldEmbeddings, field: str, index: int) -> torch.Tensor:
    """The vector that a single index of a field gets."""
    empty = {name: torch.tensor([0]) for name in table.names}
    return table(empty | {field: torch.tensor([index])})[0, table.names.index(field)]


def test_shape_and_order_of_the_fields():
    table = make()
    assert table.names == ("user", "target", "genres", "liked", "disliked")
    assert table(features()).shape == (2, 5, 3)


def test_several_values_are_averaged_over_those_that_are_there():
    table = make()
    out = table(features())
    torch.testing.assert_close(out[0, 2], (one(table, "genres", 1) + one(table, "genres", 3)) / 2)
    torch.testing.assert_close(out[1, 2], one(table, "genres", 2))
    torch.testing.assert_close(out[0, 3], (one(table, "target", 3) + one(table, "target", 6)) / 2)


def test_no_values_give_zeros():
    table = make()
    assert table(features())[1, 3].eq(0).all()
    assert table(features(user=torch.tensor([0, 0])))[:, 0].eq(0).all()


def test_liked_and_disliked_read_the_targets_rows_and_are_pooled_apart():
    table = make()
    out = table(features())
    torch.testing.assert_close(out[0, 4], out[0, 1])  # both are item 2
    assert not torch.allclose(out[0, 3], out[0, 4])


def test_fields_do_not_share_rows_unless_told():
    table = make()
    vectors = [one(table, field, index) for field, size in SIZES.items() for index in range(1, size)]
    assert len({tuple(vector.tolist()) for vector in vectors}) == len(vectors)


def test_the_width_of_the_padding_does_not_matter():
    table = make()
    wide = features(liked=torch.tensor([[0, 3, 0, 6, 0], [0] * 5]))
    torch.testing.assert_close(table(wide), table(features()))


def test_only_rows_that_were_read_get_a_gradient():
    table = make()
    table(features()).square().sum().backward()
    touched = table.weight.grad.abs().sum(1) > 0
    assert not touched[0]
    # users 1, 4; items 2, 6, 3, 5; genres 1, 3, 2
    assert touched.sum() == 2 + 4 + 3


def test_training_replaces_ids_by_the_oov_row_at_the_given_rate():
    table = make(oov_rate=0.25)
    batch = 8000
    many = {name: torch.full((batch,), 3) for name in table.names}
    many["disliked"] = torch.zeros(batch, 2, dtype=torch.long)
    replaced = (table(many)[:, 1] == one(table.eval(), "target", UNSEEN)).all(-1)
    assert 0.23 < replaced.float().mean() < 0.27
    table.train()(many).square().sum().backward()
    assert table.weight.grad.abs().sum(1).gt(0).sum() == 2 * 3  # id 3 and the unseen row of each table
    assert table(many)[:, 4].eq(0).all()  # padding stays padding


def test_evaluation_replaces_nothing_and_reseeding_repeats_the_draws():
    table = make(oov_rate=0.5)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(table(features()))
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)
    table.eval()
    torch.testing.assert_close(table(features()), table(features()), rtol=0, atol=0)


def test_an_empty_batch_still_reaches_the_table():
    table = make()
    out = table({name: value[:0] for name, value in features().items()})
    assert out.shape == (0, 5, 3)
    out.sum().backward()
    assert table.weight.grad.eq(0).all()


@pytest.mark.parametrize(
    ("field", "values"), [("user", [1, 5]), ("user", [-1, 1]), ("genres", [[1, 2], [0, 4]]), ("liked", [[7], [1]])]
)
def test_an_index_outside_its_field_is_named(field: str, values: list[object]):
    with pytest.raises(IndexError, match=f"field '{field}' holds index"):
        make()(features(**{field: torch.tensor(values)}))


def priced(size: int = 4, **options: float) -> FieldEmbeddings:
    torch.manual_seed(0)
    return FieldEmbeddings(SIZES | {"price": size}, SHARES, dim=3, **options)  # type: ignore[arg-type]


def test_a_number_multiplies_its_fields_vector_and_a_missing_one_has_another_vector():
    table = priced(oov_rate=0.0)
    place, start = table.names.index("price"), table.layout()["price"]["start"]
    out = table(features(price=torch.tensor([-1.5, torch.nan])))
    torch.testing.assert_close(out[0, place], -1.5 * table.weight[start + 2])
    torch.testing.assert_close(out[1, place], table.weight[start + 3])
    without = priced(3, oov_rate=0.0)
    torch.testing.assert_close(
        without(features(price=torch.tensor([0.0, torch.nan])))[1, place], without.weight[start + UNSEEN]
    )


def test_a_number_changes_no_other_field():
    table = priced(oov_rate=0.0)
    other = [i for i, name in enumerate(table.names) if name != "price"]
    twice = [table(features(price=price)) for price in (torch.ones(2), torch.tensor([3.0, torch.nan]))]
    assert torch.equal(twice[0][:, other], twice[1][:, other])
    ones = {name: torch.full_like(values, 2) for name, values in features().items()}  # the index of a number
    torch.testing.assert_close(table(ones | {"price": torch.full((2,), 5.0)})[:, 0], table.weight[[2, 2]])


def test_a_hidden_number_is_the_oov_vector_as_it_is():
    table = priced(oov_rate=0.25)
    many = {name: torch.zeros(8000, dtype=torch.long) for name in table.names} | {"price": torch.full((8000,), 3.0)}
    shown = table(many)[:, table.names.index("price")]
    hidden = (shown == table.weight[table.layout()["price"]["start"] + UNSEEN]).all(-1)
    assert 0.23 < hidden.float().mean() < 0.27
    torch.testing.assert_close(
        shown[~hidden], 3 * table.weight[table.layout()["price"]["start"] + 2].expand_as(shown[~hidden])
    )


def test_a_missing_field_is_named():
    with pytest.raises(KeyError, match="genres"):
        make()({name: value for name, value in features().items() if name != "genres"})


def test_sharing_with_an_unknown_field_or_another_size_is_refused():
    with pytest.raises(ValueError, match="shares the table of 'item'"):
        FieldEmbeddings(SIZES, {"liked": "item"}, dim=3)
    assert FieldEmbeddings(SIZES | {"liked": 7}, SHARES, dim=3).names == (
        "user",
        "target",
        "genres",
        "liked",
        "disliked",
    )
    with pytest.raises(ValueError, match="has 6 rows"):
        FieldEmbeddings(SIZES | {"liked": 6}, {"liked": "target"}, dim=3)


def test_looking_up_without_pooling_gives_each_values_vector():
    table = make()
    found = table.look_up("target", torch.tensor([[3, 6, 0], [1, 0, 0]]))
    assert found.shape == (2, 3, 3)
    torch.testing.assert_close(found[0, 1], one(table, "target", 6))
    assert found[0, 2].eq(0).all()
    assert make(oov_rate=0.999).train().look_up("target", torch.full((500,), 3)).unique(dim=0).shape[0] <= 2
    with pytest.raises(IndexError, match="'target' holds index 7, but its table has 7 rows"):
        table.look_up("target", torch.tensor([7]))


def test_a_hashed_field_keeps_to_its_rows_and_leaves_the_others_alone():
    torch.manual_seed(0)
    table = FieldEmbeddings({"user": 10_000, "genres": 4}, {"friends": "user"}, dim=2, oov_rate=0.0, max_rows=102)
    assert len(table.weight) == 1 + 101 + 3
    users = torch.arange(2, 10_000)
    index = {"user": users, "friends": users, "genres": torch.full_like(users, 3)}
    vectors = table(index)
    kept, counts = vectors[:, 0].unique(dim=0, return_counts=True)
    assert len(kept) == 100  # all rows but padding's and OOV's
    assert counts.max() < 2 * counts.min()
    assert torch.equal(vectors[:, 0], vectors[:, table.names.index("friends")])
    assert torch.equal(vectors[:, 0], table.look_up("user", users))
    genres = vectors[:, table.names.index("genres")]
    assert torch.equal(genres, table.weight[-1].expand_as(genres))
    unseen = table.look_up("user", torch.tensor([UNSEEN]))
    assert not (kept == unseen).all(1).any()
    with pytest.raises(IndexError, match="'user' holds index 10000, but"):
        table(index | {"user": torch.full_like(users, 10_000)})


def test_a_history_in_order_is_its_items_vectors_and_the_marks_of_what_was_liked():
    table, history = make(), HistoryVectors(3)
    batch = {"history": torch.tensor([[3, 6, 0], [0, 0, 0]]), "history_liked": torch.tensor([[2, 1, 0], [0, 0, 0]])}
    vectors, lengths = history(table, batch)
    assert lengths.tolist() == [2, 0]
    assert torch.equal(vectors, table.look_up("target", batch["history"]))  # no mark says anything at first
    with torch.no_grad():
        history.marks.weight[1:] = torch.tensor([[-1.0, 0, 0], [0, 5, 0]])
    marked, _ = history(table, batch)
    torch.testing.assert_close(marked - vectors, torch.tensor([[[0.0, 5, 0], [-1, 0, 0], [0, 0, 0]], [[0.0] * 3] * 3]))
