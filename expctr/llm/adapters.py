"""The adapter's layers, which compute in the base's dtype."""

from typing import Any, cast

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from expctr.llm.cpu.linear import linear


class LoraLinear(Linear):
    """PEFT's layer, whose product is added to the base's by the matrix product itself.

    The weights stay in float32, and so do their gradients. PEFT casts each activation to float32 and back instead and
    adds up in passes of its own, which on a CPU takes as long as the frozen layer.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        active = self.active_adapters
        if self.merged or args or kwargs or len(active) != 1 or self.lora_variant:
            return super().forward(x, *args, **kwargs)
        (name,) = active
        down, up = (cast(nn.Linear, part[name]).weight for part in (self.lora_A, self.lora_B))
        flat = x.reshape(-1, x.shape[-1])  # of a view, an addition in place has autograd copy each gradient
        result = linear(self.base_layer, flat)
        if not self.disable_adapters:
            low = nn.functional.linear(flat, down.to(x.dtype))  # no dropout, which would spoil PPO's ratio
            result.addmm_(low, up.to(x.dtype).t(), alpha=self.scaling[name])
        return result.view(*x.shape[:-1], result.shape[-1])
