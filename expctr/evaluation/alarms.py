"""Alarms of reward hacking, where a policy learns the weakness of its reward and not the task."""

import warnings
from math import inf
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from expctr.errors import UserError, check_range
from expctr.evaluation import alarm_signs
from expctr.modules.staged import StagedModule
from expctr.training.checkpoint import RunCheckpoint

_MEANING = {
    "positive": "explanations say nearly the same about every user",
    "saturated": "nearly all verdicts are extreme",
    "unique": "nearly all sentences are the same",
    "words": "sentences are far from their length at the start",
    "repeated": "sentences repeat themselves",
    "gap": "rewards are higher in training than in validation",
}


class AlarmError(UserError):
    """An alarm ended the run, as `alarms.stop` asks. The run itself is intact."""


class Alarms(Callback):
    """Logs the signs of reward hacking, and warns when one of them leaves its bounds.

    Each sign is averaged over the stage's last `window` rollout batches, over all ranks. An alarm is reported once, as
    a warning and in TensorBoard (Text), and again only after the sign has recovered or in another stage. Null turns an
    alarm off, but its curve is still logged. Verdicts are s_u, and s_r in the IC stage.

    Args:
        window: number of rollout batches to average over. No alarm is raised before a stage has had that many.
        positive: alarm if the share of positive verdicts (score > 0.5) is closer to 0 or to 1 than this: explanations
            say the same about every user.
        saturated: alarm if the share of verdicts within 0.02 of 0 or 1 is above this. Off by default: the reward
            metric mae is linear in s, so it rewards extreme verdicts where lc.score is logit.
        unique: alarm if there are fewer distinct sentences per distinct sample than this.
        length: alarm if the mean number of words, compared with the run's first window, has grown or shrunk by this
            factor.
        repeated: alarm if the share of three-word sequences that occurred earlier in their sentence is above this.
        gap: alarm if the mean raw reward of the last training batches exceeds validation's by more than this. Training
            samples sentences and validation decodes greedily, so a gap below 0 is usual. The gap of the IC reward also
            contains what the CTR model has memorised of its training rows (ctr.options.crossfit).
        stop: end the run at an alarm, with a checkpoint; `--ckpt_path last` resumes it past the alarm. An alarm at the
            end of the plan stops nothing.
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
        """Log the signs of this batch's explanations, and check them."""
        if not isinstance(pl_module, StagedModule) or pl_module.entry.stage == "ctr":
            return
        stage = pl_module.entry.name
        if stage != self._stage:
            self._stage, self._recent, self._on = stage, [], set()
        signs = _signs(_rows(pl_module, 1))
        _log(trainer, pl_module, {f"{pl_module.entry.stage}/{name}": value for name, value in signs.items()})
        self._recent = [*self._recent, signs][-self.window :]
        if len(self._recent) == self.window:
            means = {name: sum(part[name] for part in self._recent) / self.window for name in signs}
            if self._first_words is None:
                self._first_words = means["words"]
            self._judge(trainer, pl_module, means)
        if self._stopping and batch_idx + 1 < trainer.num_training_batches:  # an epoch's end is saved anyway
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, RunCheckpoint):
                    callback.save(trainer, trainer.current_epoch, batch_idx + 1)
            self._end()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the rewards of training against those of validation."""
        if trainer.state.fn != "fit" or not isinstance(pl_module, StagedModule) or pl_module.entry.stage == "ctr":
            return
        rows, held_out = _rows(pl_module, self.window), pl_module.evaluated
        labels = [row["label"] for row in rows]
        gaps = {
            f"{name}_gap": alarm_signs.reward_gap([row[name] for row in rows], labels, rewards, held_out["label"])
            for name, rewards in held_out.items()
            if name.startswith("reward_") and rows and name in rows[0]
        }
        _log(trainer, pl_module, {f"val/{name}": value for name, value in gaps.items()})
        if len(self._recent) == self.window:
            self._judge(trainer, pl_module, gaps)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop for an alarm at the end of the last epoch, whose checkpoint is written by now."""
        if self._stopping:
            self._end()

    def _bounds(self, kind: str) -> tuple[float, float]:
        """The lowest and the highest value of a sign that raise no alarm."""
        if kind == "positive" and self.positive is not None:
            return self.positive, 1 - self.positive
        if kind == "words" and self.length is not None and self._first_words:
            return self._first_words / self.length, self._first_words * self.length
        if kind == "unique" and self.unique is not None:
            return self.unique, inf
        highest = {"saturated": self.saturated, "repeated": self.repeated, "gap": self.gap}.get(kind)
        return -inf, inf if highest is None else highest

    def _judge(self, trainer: L.Trainer, module: StagedModule, signs: dict[str, float]) -> None:
        """Report the signs that have left their bounds, and forget those that have recovered."""
        for name, value in signs.items():
            kind = name.rsplit("_", 1)[-1]
            low, high = self._bounds(kind)
            if low <= value <= high:
                self._on.discard(name)
            elif name not in self._on:
                self._on.add(name)
                bound = f"below {low:.3g}" if value < low else f"above {high:.3g}"
                what = f"{name} is {value:.3g}, {bound}: {_MEANING[kind]}"
                message = f"{self._stage}, after {module.batches} batches: {what}"
                if self.stop:
                    self._stopping.append(message)
                if trainer.is_global_zero:
                    warnings.warn(f"possible reward hacking in {message}", stacklevel=1)
                    for logger in trainer.loggers:
                        if isinstance(logger, TensorBoardLogger):
                            logger.experiment.add_text("alarms", message, module.batches)

    def _end(self) -> None:
        raise AlarmError(
            f"stopped at an alarm (alarms.stop): {'; '.join(self._stopping)}. Fix: read the explanations in "
            "TensorBoard (Text), then resume with --ckpt_path last, or start a new run with other rewards (plus.yaml) "
            "or a higher kl.beta"
        )

    def state_dict(self) -> dict[str, Any]:
        """The signs so far. An alarm that stopped the run is among them, so that it does not stop the run again."""
        return {"stage": self._stage, "recent": self._recent, "first_words": self._first_words, "on": sorted(self._on)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._stage, self._recent = state_dict["stage"], list(state_dict["recent"])
        self._first_words, self._on = state_dict["first_words"], set(state_dict["on"])


def _rows(module: StagedModule, batches: int) -> list[dict[str, Any]]:
    """The explanations of the epoch's last batches, on all ranks."""
    return [row for row in module.store.rows if row["batch"] >= module.batches - batches]


def _signs(rows: list[dict[str, Any]]) -> dict[str, float]:
    texts = [row["text"] for row in rows]
    signs = {
        "unique": alarm_signs.unique(texts, [row["sample"] for row in rows]),
        "words": alarm_signs.words(texts),
        "repeated": alarm_signs.repeated(texts),
    }
    for name in ("s_u", "s_r"):
        if name in rows[0]:
            scores = [row[name] for row in rows]
            signs[f"{name}_positive"] = alarm_signs.positive(scores)
            signs[f"{name}_saturated"] = alarm_signs.saturated(scores)
    return signs


def _log(trainer: L.Trainer, module: StagedModule, values: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, module.batches)
