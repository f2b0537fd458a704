"""GRU4Rec: the GRU by hand, and RecBole's outputs."""

import math

import pytest
import torch
from sequences import VOCABULARY, carry_over, features, make, recording

from expctr.ctr.zoo.gru4rec import GRU4Rec


def test_its_logits_are_recboles():
    peer = recording("GRU4Rec")
    options = peer.options
    model = GRU4Rec(
        peer.vocabulary,
        embedding_dim=options["embedding_size"],
        hidden=options["hidden_size"],
        layers=options["num_layers"],
        oov_rate=0.0,
    )
    theirs = dict(peer.weights)
    ours = {"items.weight": theirs.pop("item_embedding.weight")}
    ours |= {f"out.{part}": theirs.pop(f"dense.{part}") for part in ("weight", "bias")}
    ours |= {name.replace("gru_layers", "gru"): theirs.pop(name) for name in [*theirs] if name.startswith("gru_layers")}
    carry_over(model, ours, theirs)
    torch.testing.assert_close(model(peer.features), peer.logit, rtol=1e-5, atol=1e-5)


def test_one_item_by_hand():
    model = make(GRU4Rec, embedding_dim=1, hidden=1)
    with torch.no_grad():
        model.items.weight[7], model.items.weight[3] = 2.0, -1.0
        model.gru.weight_ih_l0.copy_(torch.tensor([[9.0], [math.log(3) / 2], [0.5]]))  # reset, update, new
        model.out.weight.fill_(3.0)
        model.out.bias.fill_(0.5)
        model.text.bias.fill_(10.0)
    # update gate: 1 / (1 + 1/3) = 3/4 stays of the state 0, 1/4 is new: tanh(0.5 * 2) = 0.761594
    assert model(features([7], target=3)).item() == pytest.approx(10 - (3 * 0.25 * 0.761594 + 0.5), abs=1e-5)
    assert model(features([], target=3)).item() == pytest.approx(10 - 0.5, abs=1e-6)


def test_more_columns_than_in_training_do_not_matter():
    model, rows = make(GRU4Rec, layers=2), features([2, 5], [], [7, 8, 9, 2, 5, 7])
    wider = {k: torch.nn.functional.pad(v, (0, 3)) if v.ndim == 2 else v for k, v in rows.items()}
    torch.testing.assert_close(model(wider), model(rows), rtol=0, atol=1e-6)


def test_options_reach_the_model():
    model = GRU4Rec(VOCABULARY, hidden=7, layers=3, dropout=0.25, embedding_dim=4)
    assert (model.gru.hidden_size, model.gru.num_layers, model.gru.input_size) == (7, 3, 4)
    assert model.enter.p == 0.25
    with pytest.raises(ValueError, match=r"GRU4Rec\.hidden must be at least 1, not 0"):
        GRU4Rec(VOCABULARY, hidden=0)
