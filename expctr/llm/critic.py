"""The critic: values of response tokens, for generalised advantage estimation."""

from typing import cast

from torch import Tensor, nn

from expctr.seeding import first_weights


class ValueHead(nn.Module):
    """A small MLP critic over the frozen base's hidden states, in float32.

    Args:
        hidden_size: width of the base.
        width: width of the hidden layer.
        seed: of the first weights.
    """

    def __init__(self, hidden_size: int, width: int = 256, seed: int = 0) -> None:
        super().__init__()
        with first_weights(seed):
            self.layers = nn.Sequential(
                nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
            )
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)  # values begin at 0, so the first advantages are the returns
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """`[batch, response, hidden]` -> `[batch, response]`."""
        return cast(Tensor, self.layers(hidden.float())).sum(-1)  # of one; FSDP warns of what is a view, as by squeeze
