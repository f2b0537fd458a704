"""What ends a run that went wrong: an error that says where, in which rows, and what to do."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from expctr.distributed import all_gather_objects, all_sum
from expctr.errors import BadRunError, UserError
from expctr.untrusted import printable

DIVERGED = "Lower ppo.lr or reward.delta, or load the base in float32 (llm.dtype)"
"""The mend where the policy's own numbers are none."""
IMPRECISE = "Load the base in float32 (llm.dtype)"
"""The mend where the frozen base's are."""
_NAMED, _START = 3, 60


class Guard:
    """A batch's rows and where in training they stand.

    Its methods are for all ranks together: they find the same on each, and raise on all or none.

    Args:
        place: stage, epoch and batch.
        samples: this rank's sample ids.
        texts: their explanations; none where the rows have none.
    """

    def __init__(self, place: str, samples: Sequence[int], texts: Sequence[str] = ()) -> None:
        self.place, self.samples, self.texts = place, samples, texts or [""] * len(samples)

    def finite(self, what: str, values: Tensor, mend: str) -> None:
        """End the run at a nan or an infinity.

        Args:
            what: the values' name.
            values: `[rows, ...]`.
            mend: what to do about it.

        Raises:
            BadRunError: naming the rows.
        """
        bad = ~values[:, None].isfinite().flatten(1).all(1)
        if int(all_sum(bad.sum())):
            raise self.error(f"{what} is nan or infinite", bad, mend)

    def norm(self, what: str, gradients: Iterable[Tensor], mend: str) -> None:
        """End the run at gradients that are no numbers, before the step."""
        total = whole(torch.nn.utils.get_total_norm(gradients))
        if not total.isfinite():
            raise self.error(f"{what} is {float(total)}", torch.zeros(len(self.samples), dtype=torch.bool), mend)

    def written(self) -> float:
        """The share of empty texts.

        Raises:
            BadRunError: all of them are.
        """
        parts: list[list[bool]] = all_gather_objects([not text.strip() for text in self.texts])
        empty = [blank for part in parts for blank in part]
        if all(empty):
            raise BadRunError(
                f"{self.place}: all {len(empty)} explanations are empty. Either the base ends its answer at once "
                "(check its chat template and its end-of-sequence token), or rollout.max_new_tokens is too low for a "
                "word, or the adapter diverged (lower ppo.lr, raise kl.beta)"
            )
        return sum(empty) / len(empty)

    def error(self, what: str, bad: Tensor, mend: str) -> BadRunError:
        """The error for bad rows (bool, `[rows]`), of all ranks."""
        mine = [(self.samples[i], self.texts[i]) for i in bad.nonzero()[:, 0].tolist()]
        parts = all_gather_objects((mine, len(self.samples)))
        rows = sorted(row for part, _ in parts for row in part)
        return BadRunError(f"{self.place}: {what}{named(rows, sum(count for _, count in parts))}. {mend}")


def named(rows: Sequence[tuple[int, str]], total: int) -> str:
    """How many of all rows these are, and which the first ones: sample ids and the start of their texts."""
    if not rows:
        return ""
    shown = [
        f'sample {sample} "{printable(text, _START)}"' if text else f"sample {sample}" for sample, text in rows[:_NAMED]
    ]
    more = [f"{len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return f" in {len(rows)} of {total} rows ({', '.join([*shown, *more])})"


def check_rows(data: Any, validated: bool = True) -> None:
    """Refuse to train without rows to train on, or to stop early and take the best weights by rows that are not there.

    Args:
        data: the data module.
        validated: validation rows are needed.

    Raises:
        UserError: there are none.
    """
    if not len(data.table("train")):
        raise UserError("no training rows: give data.samples.fractions a first share above 0")
    if validated and not len(data.table("val")):
        raise UserError(
            "no validation rows: training stops early and takes its best weights by them. Give "
            "data.samples.fractions a middle share above 0"
        )


def check_precision(trainer: L.Trainer) -> None:
    """Refuse a precision of Lightning's beside the language model's own.

    Raises:
        UserError: it is another than float32.
    """
    if trainer.precision != "32-true":
        raise UserError(f"trainer.precision must be 32-true (it is {trainer.precision}): the base's own is llm.dtype")


def check_weights(module: nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint of another model, which would else be loaded in part and without a word.

    Args:
        module: with the trained weights that are to be loaded.
        found: the checkpoint's weights, name to shape.

    Raises:
        UserError: naming a weight that it lacks, has in another shape, or should not have.
    """
    known = {name: tuple(tensor.shape) for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    trained = {name: known[name] for name, parameter in module.named_parameters() if parameter.requires_grad}
    lacking = [f"lacks {name}" for name in trained if name not in found]
    shared = [name for name in trained if name in found]
    other = [f"has {name} as {found[name]}, not {trained[name]}" for name in shared if found[name] != trained[name]]
    unknown = [f"has {name}, which is not of this model" for name in found if name not in module.state_dict()]
    if wrong := lacking or other or unknown:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        raise UserError(
            f"the checkpoint is of another model: it {wrong[0]}{more}. Give the options of the run that made it, or a "
            "checkpoint of this one's"
        )


def section(checkpoint: Mapping[str, Any], name: str, module: nn.Module) -> Any:
    """A part of a checkpoint, if that is this module's.

    Raises:
        UserError: another class of module made it, or another model; a sharded one's weights its strategy checks.
    """
    if name not in checkpoint:
        raise UserError(f"the checkpoint is not of a {type(module).__name__}: give the config that made it")
    if "state_dict" in checkpoint:
        check_weights(module, {key: tuple(weight.shape) for key, weight in checkpoint["state_dict"].items()})
    return checkpoint[name]


def whole(norm: Tensor) -> Tensor:
    """A gradient norm over all ranks' shards."""
    return norm.full_tensor() if isinstance(norm, torch.distributed.tensor.DTensor) else norm
