"""DIN: RecBole's outputs with RecBole's weights, its sum over the history, and what DIEN has in common with it."""

import pytest
import torch
from interest_rows import ROWS, SMALL, TEXT, VOCABULARY, backbone, features, shared_names
from parity_files import Recorded
from torch.nn import functional as F

from expctr.ctr.zoo.dien import DIEN
from expctr.ctr.zoo.din import DIN, InterestBackbone, TargetAttention
from expctr.data.features import Vocabulary
from expctr.errors import UserError

both = pytest.mark.parametrize("kind", [DIN, DIEN])


def test_its_logits_are_recboles():
    recorded = Recorded("din")
    model = DIN(recorded.vocabulary, **SMALL).eval()
    recorded.fill(model.fields, "fields")
    recorded.weights["no marks"] = torch.zeros(3, 4)  # RecBole knows none, and zeros are none
    recorded.carry_over(model, shared_names("attention", "dnn_predict_layers"))
    torch.testing.assert_close(model(recorded.features), recorded.logit, rtol=1e-5, atol=1e-5)


def test_the_attention_by_hand():
    attention = TargetAttention(1, (1,))
    first, last = attention.score[0], attention.score[2]
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        last.weight.fill_(2.0)
    # Of target 3 and item 2: 3 + 20 + 100 * (3 - 2) + 1000 * 3 * 2 + bias = 0, where the sigmoid is a half.
    first.bias.data.fill_(-6123.0)
    assert attention(torch.tensor([[3.0]]), torch.tensor([[[2.0]]])).tolist() == [[1.0]]


def test_scores_shrink_with_the_root_of_the_length():
    attention, wide = TargetAttention(1, (3,)), TargetAttention(4, (3,))
    with torch.no_grad():
        for each in (attention, wide):
            each.score[0].weight.zero_()
            each.score[2].weight.fill_(4.0)
    assert attention(torch.ones(1, 1), torch.ones(1, 2, 1)).tolist() == [[6.0, 6.0]]
    assert wide(torch.ones(1, 4), torch.ones(1, 2, 4)).tolist() == [[3.0, 3.0]]


def test_two_of_a_kind_count_twice_and_padding_not_at_all():
    model, target, item = backbone(DIN), torch.randn(1, 4), torch.randn(1, 1, 4)
    once = model.interest(target, item)
    assert once.abs().max() > 0.01
    torch.testing.assert_close(model.interest(target, item.repeat(1, 2, 1)), 2 * once)
    torch.testing.assert_close(model.interest(target, F.pad(item, (0, 0, 0, 3))), once)


def test_one_item_gives_its_vector_times_its_score():
    model, target, item = backbone(DIN), torch.randn(1, 4), torch.randn(1, 1, 4)
    ratio = model.interest(target, item) / item[:, 0]
    torch.testing.assert_close(ratio, ratio[:, :1].expand(1, 4))
    assert model.interest(target, item * 0).tolist() == [[0.0] * 4]


@both
def test_the_order_of_the_history_matters_to_dien_alone(kind: type[InterestBackbone]):
    model, rows = backbone(kind), features()
    whole = torch.arange(ROWS) % 6 == 5
    turned = {name: values.flip(1) if name.startswith("history") else values for name, values in rows.items()}
    same = torch.isclose(model(turned)[whole], model(rows)[whole], rtol=1e-4)
    assert same.all() if kind is DIN else not same.any()


@both
def test_more_padding_changes_nothing(kind: type[InterestBackbone]):
    model, rows = backbone(kind), features()
    padded = {name: F.pad(values, (0, 3)) if values.ndim == 2 else values for name, values in rows.items()}
    torch.testing.assert_close(model(padded), model(rows))


@both
def test_every_field_but_the_pooled_histories_counts(kind: type[InterestBackbone]):
    model, rows = backbone(kind), features()
    assert model.fields.names == ("user", "target", "user_age", "target_genres")
    expected = model(rows)
    for name, values in rows.items():
        if name not in ("history", "history_liked"):
            changed = model({**rows, name: values.roll(1, 0)})
            assert torch.equal(changed, expected) is name.endswith("liked"), name


@both
def test_marks_count_once_trained(kind: type[InterestBackbone]):
    model, rows = backbone(kind), features()
    marks = rows["history_liked"]
    turned = {**rows, "history_liked": (3 - marks) * (marks > 0)}
    changed = (model(turned) - model(rows)).abs() > 1e-6
    assert changed.tolist() == (marks > 0).any(1).tolist()
    torch.nn.init.zeros_(model.past.marks.weight)
    assert torch.equal(model(turned), model(rows))
    assert not kind(VOCABULARY, **SMALL).past.marks.weight.any()  # as at the start


@both
@pytest.mark.parametrize("fuse", ["input", "last"])
def test_without_explanation_it_is_the_model_without_text(kind: type[InterestBackbone], fuse: str):
    fused, plain, rows = backbone(kind, TEXT, fuse=fuse), backbone(kind, fuse=fuse), features()
    extra = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not extra.missing_keys
    assert len(extra.unexpected_keys) == 1
    expected = plain(rows)
    assert torch.equal(fused(rows, torch.zeros(ROWS, TEXT)), expected)
    assert torch.equal(fused(rows, None), expected)
    assert ((fused(rows, torch.randn(ROWS, TEXT)) - expected).abs() > 1e-6).all()


@both
def test_gradients_reach_every_weight(kind: type[InterestBackbone]):
    model, rows = backbone(kind, TEXT, embedding_dim=3), features()
    loss = model(rows, torch.randn(ROWS, TEXT)).square().sum()
    if (penalty := model.penalty(rows)) is not None:
        loss = loss + penalty.sum()
    loss.backward()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:  # a bias before batch normalisation or a softmax has no effect, and stays 0
            assert name.startswith("deep.layers.") or name == "attention.score.4.bias"
            assert name.endswith(".bias")
            continue
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name
    assert not model.past.marks.weight.grad[0].any()
    assert not model.fields.weight.grad[0].any()


@both
def test_an_empty_history_gives_numbers(kind: type[InterestBackbone]):
    model, rows = backbone(kind), features()
    rows["history"], rows["history_liked"] = (torch.zeros(ROWS, 5, dtype=torch.int64) for _ in range(2))
    logit = model.train()(rows)
    loss = logit.sum() + (0 if (penalty := model.penalty(rows)) is None else penalty.sum())
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


@both
@pytest.mark.parametrize("rows", [0, 1])
def test_training_takes_batches_of_any_size(kind: type[InterestBackbone], rows: int):
    model, few = backbone(kind).train(), {name: values[5 : 5 + rows] for name, values in features().items()}
    penalty = model.penalty(few)
    assert model(few).isfinite().all()
    assert penalty is None or (penalty.shape == (rows,) and penalty.isfinite().all())


@both
def test_data_without_histories_are_refused(kind: type[InterestBackbone]):
    with pytest.raises(UserError, match=f"{kind.__name__} reads histories in their order"):
        kind(Vocabulary({"user": 9, "target": 15}))
    with pytest.raises(UserError, match="must hold target and history"):
        kind(Vocabulary({"user": 9}, history=5))


@both
def test_defaults_are_recboles(kind: type[InterestBackbone]):
    model = kind(VOCABULARY)
    assert [layer.x.out_features for layer in model.deep.layers] == [256, 256, 256]
    assert [layer.out_features for layer in model.attention.score[::2]] == [256, 256, 256, 1]
    assert (model.embedding_dim, model.dropout) == (10, 0.0)
