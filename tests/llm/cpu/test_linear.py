"""A linear layer's product is the same in both orders."""

import pytest
import torch
from torch import Tensor, nn

from expctr.llm.cpu.linear import MAX_TRANSPOSED_ROWS, apply_linear


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, MAX_TRANSPOSED_ROWS, MAX_TRANSPOSED_ROWS + 1])
def test_it_is_what_the_layer_says(rows: int, bias: bool) -> None:
    layer, x = nn.Linear(24, 40, bias), torch.randn(rows, 24)
    with torch.no_grad():
        out = apply_linear(layer, x)
    assert out.shape == (rows, 40)
    torch.testing.assert_close(out, layer(x))


def test_few_rows_are_transposed_and_only_without_gradient() -> None:
    layer, x = nn.Linear(24, 40), torch.randn(8, 24)
    with torch.no_grad():
        assert apply_linear(layer, x).t().is_contiguous()
    out = apply_linear(layer, x)
    assert out.is_contiguous()
    assert out.requires_grad


def test_a_layer_that_stands_for_a_linear_one_is_called() -> None:
    class Negative(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    layer, x = Negative(24, 40), torch.randn(8, 24)
    with torch.no_grad():
        torch.testing.assert_close(apply_linear(layer, x), layer(x))
