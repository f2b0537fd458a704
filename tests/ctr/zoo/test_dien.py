"""DIEN: RecBole's outputs with RecBole's weights, and its parts by hand; see test_din.py for what both share."""

import math

import pytest
import torch
from interest_rows import ROWS, SMALL, TEXT, VOCABULARY, backbone, features, shake, shared_names
from parity_files import Recorded
from torch import nn

from expctr.ctr.zoo.dien import AUGRU, DIEN

GATES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def test_its_logits_are_recboles():
    recorded = Recorded("dien")
    model = DIEN(recorded.vocabulary, **SMALL).eval()
    recorded.fill(model.fields, "fields")
    recorded.weights["no marks"] = torch.zeros(3, 4)  # RecBole knows none, and zeros are none
    names = shared_names("interest_evolution.attention_layer", "dnn_predict_layer")
    names |= {f"extractor.{gate}_l0": f"interset_extractor.gru.{gate}_l0" for gate in GATES}
    ours = ("x.weight", "h.weight", "x.bias", "h.bias")
    names |= {f"evolution.{x}": f"interest_evolution.dynamic_rnn.rnn.{y}" for x, y in zip(ours, GATES, strict=True)}
    recorded.carry_over(model, names, [name for name in recorded.weights if "auxiliary_net" in name])
    torch.testing.assert_close(model(recorded.features), recorded.logit, rtol=1e-5, atol=1e-5)


def test_attention_0_keeps_the_state_and_1_is_a_gru():
    augru, inputs = AUGRU(4), torch.randn(6, 5, 4)
    shake(augru)
    gru = nn.GRU(4, 4, batch_first=True)
    state = gru.state_dict()
    for ours, theirs in (("x", "ih"), ("h", "hh")):
        for kind in ("weight", "bias"):
            gates = augru.get_parameter(f"{ours}.{kind}").detach().clone()
            gates[4:8] *= -1  # torch's update gate is the share that stays, here it is the share that goes
            state[f"{kind}_{theirs}_l0"] = gates
    gru.load_state_dict(state)
    torch.testing.assert_close(augru(inputs, torch.ones(6, 5)), gru(inputs)[1][0])
    assert augru(inputs, torch.zeros(6, 5)).eq(0).all()
    two = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]).expand(6, 5)
    assert torch.equal(augru(inputs, two), augru(inputs[:, :2], torch.ones(6, 2)))


def test_augru_by_hand():
    augru = AUGRU(1)
    with torch.no_grad():
        for linear in (augru.x, augru.h):
            linear.weight.zero_()
        augru.x.weight[2] = 1.0
    # Both gates are a half. The first state is 0.8 / 2 * tanh(1), the second (1 - 0.4 / 2) of it + 0.4 / 2 * tanh(2).
    state = augru(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[0.8, 0.4]]))
    assert state.item() == pytest.approx(0.8 * 0.4 * math.tanh(1) + 0.2 * math.tanh(2))
    augru.h.weight.data[2] = 2.0  # the last state's part of the new one passes the reset gate, which is a half
    first = 0.5 * math.tanh(1)
    state = augru(torch.tensor([[[1.0], [2.0]]]), torch.ones(1, 2))
    assert state.item() == pytest.approx(0.5 * first + 0.5 * math.tanh(2 + first))


def test_a_history_of_one_item_is_one_step_whatever_the_attention_says():
    model, other = backbone(DIEN), backbone(DIEN)
    with torch.no_grad():
        for weight in other.attention.parameters():
            weight.normal_()
    target, history = torch.randn(3, 4), torch.randn(3, 5, 4)
    one, two = torch.tensor([1, 1, 1]), torch.tensor([2, 2, 2])
    step = model.evolution(model.extractor(history[:, :1])[0], torch.ones(3, 1))
    torch.testing.assert_close(model.interest(target, history, one), step)
    torch.testing.assert_close(other.interest(target, history, one), step)
    assert not torch.allclose(other.interest(target, history, two), model.interest(target, history, two))


def test_an_empty_history_leaves_the_state_at_zero():
    model = backbone(DIEN)
    assert model.interest(torch.randn(2, 4), torch.randn(2, 5, 4), torch.tensor([0, 0])).eq(0).all()


def test_the_auxiliary_loss_by_hand():
    model, rows = backbone(DIEN, embedding_dim=1, mlp=(1,)), features()
    with torch.no_grad():
        for weight in (*model.extractor.parameters(), model.past.marks.weight):
            weight.zero_()
        # every state is 1, so the logit that an item comes next is its own vector
        model.extractor.bias_ih_l0.copy_(torch.tensor([0.0, -50, 50]))
        model.fields.weight[8 + 2 : 8 + 6, 0] = torch.tensor([0.5, 1.0, -2.0, 3.0])  # of the items 2 to 5, after users
    rows = {name: values[:3] for name, values in rows.items()}
    rows["history"] = torch.tensor([[5, 2, 3, 0, 0], [4, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    rows["history_liked"] = (rows["history"] > 0).long()
    negatives = torch.tensor([[2, 4, 5, 2, 2], [2, 2, 2, 2, 2], [2, 2, 2, 2, 2]])

    def surprise(logit: float) -> float:
        return math.log(1 + math.exp(-logit))

    # Two steps: item 2 against 4, item 3 against 5. The other histories have no next item.
    mean = (surprise(0.5) + surprise(2.0) + surprise(1.0) + surprise(-3.0)) / 4
    loss = model.auxiliary_loss(rows, negatives)
    assert loss.tolist() == pytest.approx([3 * mean, 0, 0], abs=1e-6)
    assert loss.mean().item() == pytest.approx(mean)


def test_a_state_must_not_see_the_item_that_it_is_to_tell():
    model, rows = backbone(DIEN), features()
    vectors = torch.randn(2, 5, 4)
    changed = vectors.clone()
    changed[:, 3] += 1
    before, after = model.extractor(vectors)[0], model.extractor(changed)[0]
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    # the first item is never a target, the last one is: a new last negative changes the loss, a new first one does not
    negatives = model.draw_negatives(rows["history"])
    expected = model.auxiliary_loss(rows, negatives)
    first, last = negatives.clone(), negatives.clone()
    first[5, 0], last[5, 4] = 2 + (first[5, 0] - 1) % 13, 2 + (last[5, 4] - 1) % 13
    assert torch.equal(model.auxiliary_loss(rows, first), expected)
    assert (model.auxiliary_loss(rows, last) != expected).nonzero().flatten().tolist() == [5]


def test_negatives_are_any_other_item_equally_often_and_repeat_under_a_seed():
    model, items = backbone(DIEN), torch.full((13_000, 2), 5)
    torch.manual_seed(0)
    drawn = model.draw_negatives(items)
    counts = drawn.flatten().bincount(minlength=15)
    assert counts[:2].tolist() == [0, 0]
    assert counts[5] == 0
    others = counts[[2, 3, 4, *range(6, 15)]]
    assert (others / len(drawn) * 6).tolist() == pytest.approx([1.0] * 12, abs=0.1)
    torch.manual_seed(0)
    assert torch.equal(model.draw_negatives(items), drawn)
    edges = model.draw_negatives(torch.tensor([[0, 1, 2, 14]] * 500))
    assert 2 <= edges.min() <= edges.max() <= 14


def test_a_negative_wears_the_mark_of_the_item_whose_place_it_takes():
    model, rows = backbone(DIEN), features()
    with torch.no_grad():
        model.fields.weight.zero_()  # then marks are all that could tell a negative from the true item
    loss = model.auxiliary_loss(rows, model.draw_negatives(rows["history"]))
    assert loss.sum() >= math.log(2) * ROWS  # the best that is possible where both look alike


def test_the_penalty_is_alpha_times_the_loss_with_drawn_negatives():
    model, rows = backbone(DIEN, TEXT, alpha=0.5), features()
    torch.manual_seed(4)
    expected = 0.5 * model.auxiliary_loss(rows, model.draw_negatives(rows["history"]))
    torch.manual_seed(4)
    assert torch.equal(model.penalty(rows), expected)
    short = (rows["history"] > 0).sum(1) < 2
    assert (expected == 0).tolist() == short.tolist()
    with pytest.raises(ValueError, match=r"DIEN\.alpha"):
        DIEN(VOCABULARY, alpha=-1)
    assert DIEN(VOCABULARY).alpha == 1.0


def test_training_learns_what_comes_next():
    torch.manual_seed(0)
    model, rows = DIEN(VOCABULARY, **{**SMALL, "mlp": (16,)}), features()
    start = torch.randint(2, 15, (400, 1))
    history = 2 + (start - 2 + torch.arange(5)) % 13  # after each item comes the one with the next number
    rows = {name: values[:1].repeat(400, *[1] * (values.ndim - 1)) for name, values in rows.items()}
    rows["history"], rows["history_liked"] = history, torch.ones_like(history)
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(150):
        adam.zero_grad()
        loss = model.penalty(rows).mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[0] > 0.65
    assert sum(losses[-5:]) / 5 < 0.5
