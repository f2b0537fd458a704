"""The critic, which estimates the value of each response token."""

from typing import cast

from torch import Tensor, nn

from expctr.seeding import initial_weights


class ValueHead(nn.Module):
    """A small MLP in float32 over the frozen base's hidden states, and over the row's label if `reads_label`."""

    def __init__(self, hidden_size: int, width: int = 256, seed: int = 0, reads_label: bool = False) -> None:
        super().__init__()
        with initial_weights(seed):
            self.layers = nn.Sequential(
                nn.LayerNorm(hidden_size), nn.Linear(hidden_size, width), nn.Tanh(), nn.Linear(width, 1)
            )
            # drawn last, so that the other initial weights do not depend on it
            self.label = nn.Linear(1, width, bias=False) if reads_label else None
        last = cast(nn.Linear, self.layers[-1])
        nn.init.zeros_(last.weight)  # values start at 0, so the first advantages are the returns
        nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        """Values of states.

        Args:
            hidden: `[batch, response, hidden]`.
            labels: 0 or 1, `[batch, response]`; needed only if `reads_label`.

        Returns:
            `[batch, response]`.
        """
        norm, first, activation, last = self.layers
        inner = first(norm(hidden.float()))
        if self.label is not None:
            assert labels is not None
            inner = inner + self.label(2 * labels[..., None] - 1)
        return cast(Tensor, last(activation(inner))).sum(-1)  # a sum of one, since FSDP warns about views (squeeze)
