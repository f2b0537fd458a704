"""BERT4Rec: the mask, the items' biases, and RecBole's outputs."""

import pytest
import torch
from sequences import (
    HISTORY,
    VOCABULARY,
    carry_over,
    drawn,
    features,
    make,
    recording,
    transformer_options,
    transformer_weights,
)

from expctr.ctr.zoo.bert4rec import BERT4Rec


@pytest.mark.parametrize("grad", [True, False])  # torch's fast path, too
def test_its_logits_are_recboles(grad: bool):
    peer = recording("BERT4Rec")
    model = BERT4Rec(peer.vocabulary, oov_rate=0.0, **transformer_options(peer.options))
    theirs = dict(peer.weights)
    items = theirs.pop("item_embedding.weight")
    ours = transformer_weights(theirs, model.layers)
    ours |= {"items.weight": items[:-1], "mask": items[-1], "item_bias.weight": theirs.pop("output_bias")[:, None]}
    for part in ("weight", "bias"):
        ours |= {f"out.0.{part}": theirs.pop(f"output_ffn.{part}"), f"out.2.{part}": theirs.pop(f"output_ln.{part}")}
    carry_over(model, ours, theirs)
    assert (peer.features["history"] == 0).all(1).any()  # an empty history is among them
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(model(peer.features), peer.logit, rtol=1e-5, atol=1e-5)


def test_every_item_sees_every_other_but_no_padding():
    model = make(BERT4Rec)
    vectors, lengths = torch.randn(1, HISTORY, 8), torch.tensor([4])
    base = model.encode(vectors, lengths)
    for at, seen in ((0, True), (3, True), (4, False)):
        changed = vectors.clone()
        changed[:, at, 0] += 5
        difference = (model.encode(changed, lengths) - base).abs().amax((0, 2))[:4]
        assert ((difference > 1e-3) if seen else (difference < 1e-6)).all()


def test_the_mask_stands_after_the_last_item(monkeypatch: pytest.MonkeyPatch):
    model, rows = make(BERT4Rec), features([2, 5], [], [7, 8, 9, 2, 5, 7])
    seen = []
    monkeypatch.setattr(model, "encode", lambda vectors, lengths: seen.append((vectors, lengths)) or vectors)
    model(rows)
    (vectors, lengths), items = seen[0], model.items.weight
    assert lengths.tolist() == [3, 1, 7]
    assert torch.equal(vectors[0, :4], torch.stack([items[2], items[5], model.mask, torch.zeros(8)]))
    assert torch.equal(vectors[1, :2], torch.stack([model.mask, torch.zeros(8)]))
    assert torch.equal(vectors[2, 5:], torch.stack([items[7], model.mask]))


def test_the_targets_bias_is_added():
    model, rows = make(BERT4Rec), drawn()
    before = model(rows)
    with torch.no_grad():
        model.item_bias.weight[5] += 0.75
    torch.testing.assert_close(model(rows) - before, 0.75 * (rows["target"] == 5), rtol=0, atol=1e-5)


def test_it_starts_as_recbole_does():
    model = BERT4Rec(VOCABULARY, embedding_dim=64)
    assert model.dropout == model.attention_dropout == 0.2
    assert model.positions.shape == (HISTORY + 1, 64)
    assert not model.item_bias.weight.any()
    assert not model.out[0].bias.any()
    assert model.out[2].weight.eq(1).all()
    for weight in (model.mask, model.positions, model.out[0].weight, model.items.weight[1:]):
        assert weight.std().item() == pytest.approx(0.02, rel=0.3)
