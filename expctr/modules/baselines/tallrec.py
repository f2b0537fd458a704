"""TALLRec: a language model tuned to answer the question directly (a row of the paper's Table 1, its reference [1]).

Keqin Bao et al., "TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with
Recommendation", RecSys 2023: LoRA, yes/no answers, AdamW at 1e-4 with 20 steps of warm-up, early stopping on the
validation split. The ExpCTR paper trains it on the whole training set (5.1.4). What differs from its authors' code:

- The question is our ICL's, in the base's own chat template, not Alpaca's. Their first stage, tuning LLaMA on Alpaca's
  instructions, is left out: choose an instruction-tuned base.
- The loss is that of the answer's first token, which is what the score reads. Theirs is of all tokens, the question's
  included, though their paper writes the answer's alone.
- The learning rate is constant after the warm-up (theirs falls linearly over 200 epochs, most of which early stopping
  leaves out), and the adapter has no dropout (theirs 0.05).
- The score is the softmax over the two answers' logits, p(yes) / (p(yes) + p(no)); theirs takes the softmax of the two
  probabilities.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from expctr.ctr.early_stopping import BestWeights, Monitor
from expctr.data.batches import Batch, BatchSpec, Nouns
from expctr.errors import UserError, check_range
from expctr.llm.loading import LLMOptions
from expctr.llm.prompts import PromptOptions
from expctr.llm.yes_no import LCOptions
from expctr.modules.baselines.icl import DirectModule
from expctr.nan_guard import NaNGuard
from expctr.seeding import reseed, seed_of

DIVERGED = "Lower options.lr, or load the base in float32 (llm.dtype)"
"""What to do if a number is NaN or infinite."""


@dataclass(frozen=True)
class TALLRecOptions:
    """How the adapter is tuned."""

    lr: float = 1e-4
    """AdamW's learning rate."""
    warmup: int = 20
    """Steps in which it rises from 0."""
    shots: int | None = None
    """Training rows learnt from, drawn by the seed; fewer shots of a seed are among its more. None: all rows."""
    balanced: bool = False
    """Draw as many liked as disliked rows. The authors draw without regard to labels."""
    minibatch_size: int = 128
    """Rows of one step."""
    micro_batch_size: int | None = None
    """Rows of one forward and backward pass, to save memory; none: the whole minibatch. Results do not depend on it."""
    grad_clip: float = 1.0
    """Largest gradient norm of a step."""
    monitor: Monitor = "auc"
    """Validation metric that early stopping watches."""
    patience: int = 3
    """Validations without improvement until training stops; the best adapter is restored."""

    def __post_init__(self) -> None:
        check_range("options", self, lr=(0, inf), warmup=(0, inf), grad_clip=(0, inf), shots=(1, inf))
        check_range("options", self, minibatch_size=(1, inf), micro_batch_size=(1, inf), patience=(1, inf))


class TALLRecModule(DirectModule):
    """A language model whose adapter learns to answer the question right.

    Args:
        llm: the base and its adapter, which acts on every token (`adapter_scope` is not asked).
        prompts: the template `icl` and the caps.
        lc: the answers' words (`score`, `temperature` and `include_title` are not asked).
        options: how the adapter is tuned.
    """

    name = "TALLRec"

    def __init__(
        self,
        llm: LLMOptions = LLMOptions(),
        prompts: PromptOptions = PromptOptions(),
        lc: LCOptions = LCOptions(),
        options: TALLRecOptions = TALLRecOptions(),
    ) -> None:
        lc = replace(lc, score="logit", temperature=1.0)
        super().__init__(llm, prompts, lc, options.monitor, tuned=True)
        self.options = options

    def build(self, nouns: Nouns, seed: int = 0, device: torch.device | None = None) -> None:
        """Load the base, and keep the best adapter from now on."""
        super().build(nouns, seed, device)
        self.best = BestWeights(nn.ParameterList(self.adapter()), self.monitor, self.options.patience)

    def adapter(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        return (parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def train_batches(self) -> BatchSpec:
        """Minibatches of the rows that it learns from, with titles."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = self.training_rows(data.table("train").label, data.seed)
        return BatchSpec(self.options.minibatch_size, titles=True, epoch=self.current_epoch, rows=rows)

    def training_rows(self, labels: Tensor, seed: int) -> Tensor:
        """Positions of all rows, or of the shots; `UserError` if there are not as many. Labels are `[rows]`."""
        shots = self.options.shots
        if shots is None:
            return torch.arange(len(labels))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed_of(seed)))
        if self.options.balanced:
            liked = labels[order] > 0.5
            chosen = torch.cat([order[liked][: (shots + 1) // 2], order[~liked][: shots // 2]])
        else:
            chosen = order[:shots]
        if len(chosen) < shots:
            raise UserError(
                f"options.shots is {shots}, and the {len(labels)} training rows, {int(labels.sum())} of them liked, "
                f"hold no more than {len(chosen)} of them: lower it, or turn options.balanced off"
            )
        return chosen

    def configure_optimizers(self) -> Any:
        """AdamW as in Hugging Face's trainer, and the warm-up."""
        optimizer = torch.optim.AdamW(self.adapter(), lr=self.options.lr, weight_decay=0.0)
        warmup = self.options.warmup
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))
        return [optimizer], [schedule]

    def on_fit_start(self) -> None:
        """Refuse what would, without a word, train something else, or never end."""
        self.trainer.datamodule.check_rows()  # type: ignore[attr-defined]
        if self.trainer.world_size > 1:
            raise UserError(f"trainer.devices must be 1 for TALLRec (there are {self.trainer.world_size} ranks)")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step on a minibatch."""
        reseed(self.trainer.datamodule.seed, self.current_epoch, batch_idx)  # type: ignore[attr-defined]
        optimizer = cast(LightningOptimizer, self.optimizers())
        guard = NaNGuard(f"epoch {self.current_epoch + 1}, batch {batch_idx + 1}", batch.sample.tolist())
        optimizer.zero_grad()
        parts = []
        for rows in torch.arange(len(batch)).split(self.options.micro_batch_size or len(batch)):
            losses = self.question.losses([batch.texts[i] for i in rows.tolist()], batch.label[rows])
            self.manual_backward(losses.sum() / len(batch))
            parts.append(losses.detach())
        by_row = torch.cat(parts)
        guard.check("the loss", by_row, DIVERGED)
        guard.check_gradients("the gradient norm", (p.grad for p in self.adapter() if p.grad is not None), DIVERGED)
        norm = nn.utils.clip_grad_norm_(self.adapter(), self.options.grad_clip)
        optimizer.step()
        schedule = cast(LRScheduler, self.lr_schedulers())
        values = {"loss": by_row.mean(), "grad_norm": norm, "lr": schedule.get_last_lr()[0]}
        self.log_dict({f"tallrec/{name}": value for name, value in values.items()}, batch_size=len(batch))
        schedule.step()
