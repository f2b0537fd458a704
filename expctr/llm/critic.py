"""The critic, which estimates the value of each response token."""

from typing import cast

from torch import Tensor, nn

from expctr.seeding import initial_weights


class ValueHead(nn.Module):
    """A small MLP in float32 over the frozen base's hidden states."""

    def __init__(self, hidden_size: int, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        with initial_weights(seed):
            self.layers = nn.Sequential(
                nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
            )
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)  # values start at 0, so the first advantages are the returns
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, response, hidden]` -> `[batch, response]`."""
        return cast(Tensor, self.layers(hidden.float())).sum(-1)  # a sum of one, since FSDP warns about views (squeeze)
