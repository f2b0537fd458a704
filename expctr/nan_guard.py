"""The NaN guard: ends a run whose numbers are NaN or infinite, or whose texts are all empty, and names the rows."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from expctr.distributed import all_gather_objects, all_sum
from expctr.errors import BadRunError
from expctr.untrusted import printable

_NAMED, _START = 3, 60


class NaNGuard:
    """Sample ids and explanations of this rank's rows of a batch, and the stage, epoch and batch for the message.

    All ranks must call its methods together. They raise on all ranks or on none.
    """

    def __init__(self, place: str, samples: Sequence[int], texts: Sequence[str] = ()) -> None:
        self.place, self.samples, self.texts = place, samples, texts or [""] * len(samples)

    def check(self, what: str, values: Tensor, fix: str) -> None:
        """Raise `BadRunError`, which names the rows, if one of `values`, `[rows, ...]`, is NaN or infinite."""
        bad = ~values[:, None].isfinite().flatten(1).all(1)
        if int(all_sum(bad.sum())):
            raise self.error(f"{what} is NaN or infinite", bad, fix)

    def check_gradients(self, what: str, gradients: Iterable[Tensor], fix: str) -> None:
        """Raise `BadRunError`, without naming rows, if the norm of the gradients is NaN or infinite."""
        total = full_tensor(torch.nn.utils.get_total_norm(gradients))
        if not total.isfinite():
            raise self.error(f"{what} is {float(total)}", torch.zeros(len(self.samples), dtype=torch.bool), fix)

    def share_empty(self) -> float:
        """The share of empty texts over all ranks; `BadRunError` if all of them are empty."""
        parts: list[list[bool]] = all_gather_objects([not text.strip() for text in self.texts])
        empty = [blank for part in parts for blank in part]
        if all(empty):
            raise BadRunError(
                f"{self.place}: all {len(empty)} explanations are empty. Either the base ends its answer at once "
                "(check its chat template and its end-of-sequence token), or "
                "model.explainer.rollout.max_new_tokens is too low for a "
                "word, or the adapter has diverged (lower model.explainer.ppo.lr, raise model.explainer.kl.beta)"
            )
        return sum(empty) / len(empty)

    def error(self, what: str, bad: Tensor, fix: str) -> BadRunError:
        """The error for bad rows (bool, `[rows]`) of all ranks."""
        mine = [(self.samples[i], self.texts[i]) for i in bad.nonzero()[:, 0].tolist()]
        parts = all_gather_objects((mine, len(self.samples)))
        rows = sorted(row for part, _ in parts for row in part)
        return BadRunError(f"{self.place}: {what}{describe_rows(rows, sum(count for _, count in parts))}. {fix}")


def describe_rows(rows: Sequence[tuple[int, str]], total: int) -> str:
    """How many of all rows these are, and the first ones by sample id and the start of their text."""
    if not rows:
        return ""
    shown = [f'sample {row} "{printable(text, _START)}"' if text else f"sample {row}" for row, text in rows[:_NAMED]]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return f" in {len(rows)} of {total} rows ({', '.join([*shown, *more])})"


def full_tensor(value: Tensor) -> Tensor:
    """A norm over the shards of all ranks."""
    return value.full_tensor() if isinstance(value, torch.distributed.tensor.DTensor) else value
