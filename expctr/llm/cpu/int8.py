"""Whether a CPU multiplies 8-bit integers without error."""

from functools import cache

import torch


@cache
def int8_is_exact() -> bool:
    """Whether products of 8-bit matrices, as bitsandbytes makes them, are right for the largest values.

    Without VNNI or AMX instructions, oneDNN adds pairs of products in 16 bits, which overflow.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, -largest.T) == -64 * 127**2).all())
