"""SASRec: who sees whom, and RecBole's outputs."""

import pytest
import torch
from sequences import (
    HISTORY,
    VOCABULARY,
    carry_over,
    features,
    make,
    recording,
    transformer_options,
    transformer_weights,
)

from expctr.ctr.zoo.sasrec import SASRec


@pytest.mark.parametrize("grad", [True, False])  # torch's fast path, too
def test_its_logits_are_recboles(grad: bool):
    peer = recording("SASRec")
    model = SASRec(peer.vocabulary, oov_rate=0.0, **transformer_options(peer.options))
    theirs = dict(peer.weights)
    ours = transformer_weights(theirs, model.layers) | {"items.weight": theirs.pop("item_embedding.weight")}
    carry_over(model, ours, theirs)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(model(peer.features), peer.logit, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_an_item_changes_the_states_from_its_own_on(grad: bool):
    model = make(SASRec)
    vectors = torch.randn(1, HISTORY, 8)
    changed = vectors.clone()
    changed[:, 2, 0] += 5
    with torch.set_grad_enabled(grad):
        difference = (model.encode(changed) - model.encode(vectors)).abs().amax((0, 2))
    assert (difference[:2] < 1e-6).all()
    assert (difference[2:] > 1e-3).all()


def test_the_state_is_the_last_items():
    model = make(SASRec)
    rows = features([2, 5, 7])
    vectors, lengths = model.past(model.items, rows)
    torch.testing.assert_close(model.state(vectors, lengths, rows), model.encode(vectors)[:, 2])


def test_without_layers_weights_it_is_the_last_items_vector_at_its_place():
    """Attention and feed-forward return 0, and LayerNorm leaves a vector of mean 0 and variance 1 as it is."""
    model = make(SASRec, embedding_dim=2, heads=1)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
        for norm in [model.enter[0], *(n for layer in model.encoder for n in (layer.norm1, layer.norm2))]:
            norm.weight.fill_(1.0)
            norm.bias.zero_()
        model.items.weight[5] = torch.tensor([4.0, 1.0])
        model.items.weight[3] = torch.tensor([10.0, 7.0])
        model.positions.zero_()
        model.positions[2] = torch.tensor([0.0, 9.0])
        model.text.bias.zero_()
    second, third = model(features([2, 5], [7, 2, 5])).tolist()  # (4, 1) -> (1, -1); (4, 10) -> (-1, 1)
    assert second == pytest.approx(10 - 7, abs=1e-4)
    assert third == pytest.approx(7 - 10, abs=1e-4)


def test_options_reach_the_model():
    options = {"layers": 3, "heads": 4, "inner": 10, "activation": "relu", "dropout": 0.3, "attention_dropout": 0.1}
    model = SASRec(VOCABULARY, **options, layer_norm_eps=1e-6, init_std=0.5, embedding_dim=64)
    assert len(model.encoder) == 3
    for layer in model.encoder:
        assert layer.self_attn.num_heads == 4
        assert layer.self_attn.dropout == 0.1
        assert (layer.dropout.p, layer.dropout1.p, layer.dropout2.p) == (0, 0.3, 0.3)
        assert layer.linear1.out_features == 10
        assert layer.activation is torch.nn.functional.relu
        assert layer.norm1.eps == layer.norm2.eps == 1e-6
        assert layer.linear1.weight.std().item() == pytest.approx(0.5, rel=0.1)
        assert layer.norm1.weight.eq(1).all()
        assert not layer.linear1.bias.any()
        assert not layer.self_attn.in_proj_bias.any()
    assert model.items.weight[1:].std().item() == pytest.approx(0.5, rel=0.1)
    assert model.enter[1].p == 0.3
    with pytest.raises(ValueError, match=r"SASRec\.heads must divide embedding_dim: 3 heads, length 64"):
        SASRec(VOCABULARY, heads=3)
    with pytest.raises(ValueError, match=r"SASRec\.attention_dropout must be from 0 to 1, not 2"):
        SASRec(VOCABULARY, attention_dropout=2)
