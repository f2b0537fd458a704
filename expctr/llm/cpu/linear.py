"""A linear layer's product, the way round that is faster."""

from typing import cast

import torch
from torch import Tensor, nn

ROWS = 128
"""The most rows that are few."""


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` of a linear layer.

    Of few rows, a CPU makes W x^T in float32 in half to nine tenths of the time of x W^T, the same product. The result
    then lies in memory column by column. Where gradients are wanted the rows are many, and nothing is gained.

    Args:
        layer: nn.Linear, or one that stands for it (quantized, sharded), which is just called.
        x: `[rows, in]`.

    Returns:
        `[rows, out]`.
    """
    few = len(x) <= ROWS and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    if not few or type(layer) is not nn.Linear:
        return cast(Tensor, layer(x))
    product = layer.weight @ x.t()
    return (product if layer.bias is None else product + layer.bias[:, None]).t()
