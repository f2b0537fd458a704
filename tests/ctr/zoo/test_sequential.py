"""What all sequential models have in common."""

import pytest
import torch
from sequences import HISTORY, ITEMS, TEXT, VOCABULARY, drawn, features, make

from expctr.ctr.zoo.bert4rec import BERT4Rec
from expctr.ctr.zoo.caser import Caser
from expctr.ctr.zoo.gru4rec import GRU4Rec
from expctr.ctr.zoo.sasrec import SASRec
from expctr.ctr.zoo.sequential import SequentialBackbone
from expctr.data.features import Vocabulary
from expctr.errors import UserError

Kind = type[SequentialBackbone]
every_model = pytest.mark.parametrize("kind", [Caser, GRU4Rec, SASRec, BERT4Rec])


@every_model
def test_without_explanation_it_is_the_model_without_text(kind: Kind):
    fused, plain = make(kind, TEXT), make(kind, seed=1)
    extra = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not extra.missing_keys
    assert extra.unexpected_keys == ["text.z.weight"]
    rows = drawn()
    expected = plain(rows)
    assert torch.equal(fused(rows, torch.zeros(64, TEXT)), expected)
    assert torch.equal(fused(rows), expected)
    one, other = torch.randn(2, 64, TEXT)
    assert not torch.allclose(fused(rows, one), expected)
    assert not torch.allclose(fused(rows, one), fused(rows, other))


@every_model
def test_the_order_of_the_history_matters(kind: Kind):
    forward, backward = make(kind)(features([2, 5, 7, 9], [9, 7, 5, 2]))
    assert abs(forward - backward) > 1e-3


@every_model
def test_marks_matter_as_soon_as_they_are_not_zero(kind: Kind):
    model = make(kind)
    rows = features([2, 5, 7, 9])
    otherwise = rows | {"history_liked": torch.where(rows["history"] == 0, 0, 3 - rows["history_liked"])}
    assert torch.equal(model(rows), model(otherwise))
    with torch.no_grad():
        model.past.marks.weight[1:].normal_()
    assert not torch.allclose(model(rows), model(otherwise), atol=1e-3)


@every_model
def test_gradients_reach_every_parameter(kind: Kind):
    model, rows = make(kind, TEXT), drawn()
    logits = model(rows, torch.randn(64, TEXT))
    penalty = model.penalty(rows)
    loss = logits.square().sum() if penalty is None else logits.square().sum() + penalty
    loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not silent
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in model.parameters())
    assert not model.items.weight.grad[0].any()  # padding


@every_model
def test_an_empty_history_leaves_the_target(kind: Kind):
    model = make(kind)
    rows = features(*[[]] * ITEMS) | {"target": torch.arange(ITEMS)}
    logits = model(rows)
    assert logits.isfinite().all()
    assert len(logits[1:].unique()) == ITEMS - 1
    other_user = model(rows | {"user": rows["user"] + 1})
    assert torch.equal(other_user, logits) is (kind is not Caser)
    with_others = features([2, 5], [], [7, 8, 9, 2, 5, 7])
    torch.testing.assert_close(model(with_others)[1], logits[3])


@every_model
def test_a_row_does_not_see_the_others(kind: Kind):
    model, rows = make(kind), drawn(12)
    one_by_one = [model({name: values[row : row + 1] for name, values in rows.items()}) for row in range(12)]
    torch.testing.assert_close(torch.cat(one_by_one), model(rows))


@pytest.mark.parametrize("kind", [GRU4Rec, SASRec, BERT4Rec])  # Caser's image is as wide as the longest history
def test_columns_of_padding_do_not_matter(kind: Kind):
    model, rows = make(kind), drawn(longest=HISTORY - 2)
    narrow = {name: values[:, :-2] if values.ndim == 2 else values for name, values in rows.items()}
    torch.testing.assert_close(model(narrow), model(rows), rtol=0, atol=1e-6)


@every_model
def test_scoring_takes_other_kernels_and_gives_the_same(kind: Kind):
    model, rows = make(kind), drawn()
    expected = model(rows)
    with torch.no_grad():
        torch.testing.assert_close(model(rows), expected, rtol=0, atol=1e-5)


@every_model
def test_dropout_and_unknown_items_are_of_training_alone(kind: Kind):
    model, rows = make(kind), drawn()
    assert torch.equal(model(rows), model(rows))
    model.train()
    assert not torch.equal(model(rows), model(rows))
    assert model(rows).isfinite().all()


@every_model
def test_data_without_histories_are_refused(kind: Kind):
    with pytest.raises(UserError, match=f"{kind.__name__} reads histories in their order"):
        kind(Vocabulary(VOCABULARY.sizes, VOCABULARY.shares))
    with pytest.raises(UserError, match=f"{kind.__name__} reads histories in their order"):
        kind(Vocabulary({"user": 9}, history=6))


@every_model
def test_only_what_it_reads_has_vectors(kind: Kind):
    built = kind(VOCABULARY, embedding_dim=4)
    assert built.items.names == ("target",)
    assert built.items.weight.shape == (ITEMS, 4)
    assert not built.items.weight[0].any()
    assert not built.past.marks.weight.any()


@every_model
def test_it_learns_how_the_last_item_and_the_target_go_together(kind: Kind):
    """The label is the parity of the history's last item and the target together: neither alone shows it."""
    torch.manual_seed(0)
    model = kind(VOCABULARY, embedding_dim=16, oov_rate=0.0, dropout=0.0)
    rows = drawn(320, longest=2)
    last = rows["history"].gather(1, ((rows["history"] != 0).sum(1, keepdim=True) - 1).clamp_min(0)).squeeze(1)
    label = ((last + rows["target"]) % 2).float()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(rows), label)
        adam.zero_grad()
        loss.backward()
        adam.step()
    right = (model.eval()(rows) > 0) == label.bool()
    assert right[last != 0].float().mean() > 0.9
