"""Dropout on a CPU: its rate, its scale, its gradient, and that a seed repeats it."""

import pytest
import torch

from expctr.ctr.cpu.dropout import Dropout


def test_dropout_drops_at_its_rate_keeps_the_mean_and_repeats_under_a_seed():
    drop, x = Dropout(0.2), torch.ones(401, 333)
    torch.manual_seed(0)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.8], abs=1e-4)
    for share in (out.eq(0), out.eq(0)[:, ::4], out[:, 1:].eq(0)[out[:, :-1].eq(0)]):  # also next to a dropped one
        assert share.float().mean().item() == pytest.approx(0.2, abs=0.01)
    torch.manual_seed(0)
    assert torch.equal(drop(x), out)
    assert torch.equal(drop.eval()(x), x)
    assert Dropout(0.0)(x).equal(x)
    assert Dropout(1.0)(x).eq(0).all()


def test_dropouts_gradient_is_its_own_mask():
    x = torch.ones(50, 7, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out)
