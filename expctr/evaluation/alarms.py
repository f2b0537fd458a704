"""Reward hacking watched: what a policy does when it learns the reward's weakness and not the task."""

import warnings
from math import inf
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from expctr.errors import UserError, check_range
from expctr.evaluation import textstats
from expctr.modules.expctr import ExpCTRModule
from expctr.training.checkpoint import RunCheckpoint

_MEANING = {
    "positive": "nearly the same is said of everyone",
    "saturated": "nearly all verdicts are certain",
    "unique": "nearly the same sentence is written for everyone",
    "words": "sentences are far from their first length",
    "repeated": "sentences repeat themselves",
    "gap": "what earns a reward in training earns less in validation",
}


class AlarmError(UserError):
    """An alarm that was to end the run; nothing went wrong with its numbers."""


class Alarms(Callback):
    """Draws the signs of reward hacking, and warns when one runs away.

    A sign is judged by its mean over the last `window` rollout batches of the stage, of all ranks. It is told once, in
    the log and in TensorBoard (Text), and again only after it had recovered or in another stage. A null turns an alarm
    off; its curve is drawn all the same. Verdicts are s_u, and s_r in the IC stage.

    Args:
        window: rollout batches that a sign is judged over; nothing is judged before a stage has had as many.
        positive: the share of positive verdicts (score > 0.5) is less than this away from 0 or from 1: the policy says
            the same of everyone.
        saturated: the share of verdicts within 0.02 of 0 or 1 is above this. Off: reward.metric mae is linear in s, so
            with lc.score logit confident verdicts are what it asks for.
        unique: there are fewer distinct sentences per distinct sample than this.
        length: the mean number of words is this many times what it was in the run's first window, or that fraction.
        repeated: the share of three-word runs that stood in their sentence before is above this.
        gap: the mean raw reward of the last training batches is above validation's by more than this. Training samples
            and validation is greedy, so a gap below 0 is usual. That of the IC reward is also what the CTR model knows
            of its training rows by heart (ctr.options.crossfit).
        stop: end the run at an alarm, with a checkpoint; `--ckpt_path last` goes on past it. At the plan's end there is
            nothing left to stop.
    """

    def __init__(
        self,
        window: int = 10,
        positive: float | None = 0.05,
        saturated: float | None = None,
        unique: float | None = 0.1,
        length: float | None = 2.0,
        repeated: float | None = 0.3,
        gap: float | None = 0.1,
        stop: bool = False,
    ) -> None:
        self.window, self.positive, self.saturated, self.unique = window, positive, saturated, unique
        self.length, self.repeated, self.gap, self.stop = length, repeated, gap, stop
        check_range("alarms", self, window=(1, inf), positive=(0, 0.5), saturated=(0, 1), unique=(0, 1))
        check_range("alarms", self, length=(1, inf), repeated=(0, 1), gap=(0, inf))
        self._stage = ""
        self._recent: list[dict[str, float]] = []  # the signs of the stage's last batches
        self._first_words: float | None = None
        self._on: set[str] = set()
        self._stopping: list[str] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw and judge the batch's explanations."""
        if not isinstance(pl_module, ExpCTRModule) or pl_module.entry.stage == "ctr":
            return
        stage = pl_module.entry.name
        if stage != self._stage:
            self._stage, self._recent, self._on = stage, [], set()
        signs = _signs(_rows(pl_module, 1))
        _draw(trainer, pl_module, {f"{pl_module.entry.stage}/{name}": value for name, value in signs.items()})
        self._recent = [*self._recent, signs][-self.window :]
        if len(self._recent) == self.window:
            means = {name: sum(part[name] for part in self._recent) / self.window for name in signs}
            if self._first_words is None:
                self._first_words = means["words"]
            self._judge(trainer, pl_module, means)
        if self._stopping and batch_idx + 1 < trainer.num_training_batches:  # after the last, the epoch is saved anyway
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, RunCheckpoint):
                    callback.save(trainer, trainer.current_epoch, batch_idx + 1)
            self._end()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the rewards of training with those of validation."""
        if trainer.state.fn != "fit" or not isinstance(pl_module, ExpCTRModule) or pl_module.entry.stage == "ctr":
            return
        gaps = _gaps(pl_module, _rows(pl_module, self.window))
        _draw(trainer, pl_module, {f"val/{name}": value for name, value in gaps.items()})
        if len(self._recent) == self.window:
            self._judge(trainer, pl_module, gaps)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop for an alarm of the last epoch's end, which is saved by now."""
        if self._stopping:
            self._end()

    def _bounds(self, kind: str) -> tuple[float, float]:
        """Between what a sign is as it should be."""
        if kind == "positive" and self.positive is not None:
            return self.positive, 1 - self.positive
        if kind == "words" and self.length is not None and self._first_words:
            return self._first_words / self.length, self._first_words * self.length
        if kind == "unique" and self.unique is not None:
            return self.unique, inf
        highest = {"saturated": self.saturated, "repeated": self.repeated, "gap": self.gap}.get(kind)
        return -inf, inf if highest is None else highest

    def _judge(self, trainer: L.Trainer, module: ExpCTRModule, signs: dict[str, float]) -> None:
        """Warn of what has newly run away, and forget what has recovered."""
        for name, value in signs.items():
            kind = name.rsplit("_", 1)[-1]
            low, high = self._bounds(kind)
            if low <= value <= high:
                self._on.discard(name)
            elif name not in self._on:
                self._on.add(name)
                bound = f"below {low:.3g}" if value < low else f"above {high:.3g}"
                self._tell(trainer, module, f"{name} is {value:.3g}, {bound}: {_MEANING[kind]}")

    def _tell(self, trainer: L.Trainer, module: ExpCTRModule, what: str) -> None:
        said = f"{self._stage}, after {module.batches} batches: {what}"
        if self.stop:
            self._stopping.append(said)
        if trainer.is_global_zero:
            warnings.warn(f"possible reward hacking in {said}", stacklevel=1)
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_text("alarms", said, module.batches)

    def _end(self) -> None:
        said = "; ".join(self._stopping)
        raise AlarmError(
            f"stopped at an alarm, by alarms.stop: {said}. Look at the explanations in TensorBoard (Text), then go on "
            "all the same by --ckpt_path last, or start anew with other rewards (plus.yaml) or a higher kl.beta"
        )

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far. An alarm that stopped the run is known, and does not stop it again."""
        return {"stage": self._stage, "recent": self._recent, "first_words": self._first_words, "on": sorted(self._on)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._stage, self._recent = state_dict["stage"], list(state_dict["recent"])
        self._first_words, self._on = state_dict["first_words"], set(state_dict["on"])


def _rows(module: ExpCTRModule, batches: int) -> list[dict[str, Any]]:
    """What the epoch's last batches wrote, on all ranks."""
    return [row for row in module.store.rows if row["batch"] >= module.batches - batches]


def _signs(rows: list[dict[str, Any]]) -> dict[str, float]:
    texts = [row["text"] for row in rows]
    signs = {
        "unique": textstats.unique(texts, [row["sample"] for row in rows]),
        "words": textstats.words(texts),
        "repeated": textstats.repeated(texts),
    }
    for name in ("s_u", "s_r"):
        if name in rows[0]:
            scores = [row[name] for row in rows]
            signs |= {f"{name}_positive": textstats.positive(scores), f"{name}_saturated": textstats.saturated(scores)}
    return signs


def _gaps(module: ExpCTRModule, rows: list[dict[str, Any]]) -> dict[str, float]:
    """By how much each reward of the rows is above validation's."""
    return {
        f"{name}_gap": textstats.reward_gap(
            [row[name] for row in rows], [row["label"] for row in rows], rewards, module.evaluated["label"]
        )
        for name, rewards in module.evaluated.items()
        if name.startswith("reward_") and rows and name in rows[0]
    }


def _draw(trainer: L.Trainer, module: ExpCTRModule, values: dict[str, float]) -> None:
    if trainer.logger is not None:
        trainer.logger.log_metrics(values, module.batches)
