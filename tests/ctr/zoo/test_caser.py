"""Caser: its filters by hand, its penalty, and RecBole's outputs."""

import pytest
import torch
from sequences import HISTORY, VOCABULARY, carry_over, features, make, recording

from expctr.ctr.zoo.caser import Caser
from expctr.data.features import Vocabulary
from expctr.errors import UserError


def test_its_logits_are_recboles():
    peer = recording("Caser")
    options = peer.options
    model = Caser(
        peer.vocabulary,
        embedding_dim=options["embedding_size"],
        nv=options["nv"],
        nh=options["nh"],
        reg_weight=options["reg_weight"],
        oov_rate=0.0,
    )
    theirs = dict(peer.weights)
    ours = {
        "items.weight": theirs.pop("item_embedding.weight"),
        "users.weight": theirs.pop("user_embedding.weight"),
        "vertical.weight": theirs.pop("conv_v.weight").squeeze(1),  # filters, channels, time, 1
        "vertical.bias": theirs.pop("conv_v.bias"),
    }
    for place in range(model.history):
        image = theirs.pop(f"conv_h.{place}.weight")  # filters, channels, time, dimensions
        ours[f"horizontal.{place}.weight"] = image.squeeze(1).transpose(1, 2)
        ours[f"horizontal.{place}.bias"] = theirs.pop(f"conv_h.{place}.bias")
    for part in ("weight", "bias"):
        ours |= {f"join.{part}": theirs.pop(f"fc1.{part}"), f"out.{part}": theirs.pop(f"fc2.{part}")}
    carry_over(model, ours, theirs)
    assert (peer.features["history"] == 0).all(1).any()  # an empty history is among them
    torch.testing.assert_close(model(peer.features), peer.logit, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.penalty(peer.features), peer.penalty, rtol=1e-5, atol=1e-5)


def silent() -> Caser:
    """A model of dimension 2, one vertical and one horizontal filter of each height, whose weights are all 0."""
    model = make(Caser, embedding_dim=2, nv=1, nh=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.items.weight[2] = torch.tensor([1.0, 0.0])
        model.items.weight[5] = torch.tensor([0.0, 1.0])
        model.items.weight[3] = torch.tensor([1.0, 0.0])  # the target: the logit is the state's first number
        model.out.weight[0, 0] = 1.0
    return model


def test_a_vertical_filter_is_a_weighted_sum_over_time():
    model = silent()
    with torch.no_grad():
        model.vertical.weight[0, :, 0] = torch.tensor([0.5, 2.0, 4.0, 8.0, 16.0, 32.0])
        model.join.weight[0, :2] = torch.tensor([1.0, 100.0])
    # [2, 5, 2]: first dimension 0.5 + 4, second 2; [5]: second 0.5
    assert model(features([2, 5, 2], [5], [])).tolist() == pytest.approx([4.5 + 200, 50, 0])


def test_a_horizontal_filter_finds_a_run_of_items_anywhere():
    model = silent()
    with torch.no_grad():
        model.horizontal[1].weight[0] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # first dimension, then the second
        model.horizontal[1].bias.fill_(-1.0)
        model.join.weight[0, 2 + 1] = 3.0
    logits = model(features([2, 5], [5, 5, 2, 5], [5, 2], [2, 2, 2], []))
    assert logits.tolist() == pytest.approx([3, 3, 0, 0, 0])


def test_the_users_vector_joins():
    model = silent()
    with torch.no_grad():
        model.users.weight[4] = torch.tensor([0.25, 7.0])
        model.out.weight[0, 2:] = torch.tensor([2.0, 1.0])
    rows = features([2], [5])
    assert model(rows).tolist() == pytest.approx([7.5, 7.5])
    assert model(rows | {"user": torch.tensor([4, 5])}).tolist() == pytest.approx([7.5, 0])


def test_the_penalty_sums_norms():
    model = silent()
    model.reg_weight = 0.1
    with torch.no_grad():
        model.items.weight.zero_()
        model.items.weight[2] = torch.tensor([3.0, 4.0])  # norm 5
        model.users.weight[4] = torch.tensor([6.0, 8.0])  # 10
        model.horizontal[5].weight[0, 0, 0] = -2.0
        model.horizontal[5].bias.fill_(100.0)  # biases are free
        model.past.marks.weight[1] = 100.0
    assert model.penalty(features([2])).item() == pytest.approx(0.1 * (5 + 10 + 2 + 1))  # 1: `silent` opens one path


def test_options_reach_the_model():
    model = Caser(VOCABULARY, nv=3, nh=2, dropout=0.25)
    assert model.vertical.weight.shape == (3, HISTORY, 1)
    assert [conv.weight.shape for conv in model.horizontal] == [(2, 64, height) for height in range(1, HISTORY + 1)]
    assert model.join.in_features == 3 * 64 + 2 * HISTORY
    assert model.drop.p == 0.25
    assert model.reg_weight == 1e-4
    assert model.users.weight[1:].std().item() == pytest.approx(1 / 64, rel=0.2)
    with pytest.raises(ValueError, match=r"Caser\.nv must be at least 1, not 0"):
        Caser(VOCABULARY, nv=0)


def test_data_without_users_are_refused():
    with pytest.raises(UserError, match="Caser reads the user"):
        Caser(Vocabulary({"target": 9}, history=4))
