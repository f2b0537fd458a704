"""The models that all stages share, and how they score rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expctr.ctr.click_model import ClickModel
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.batches import Batch
from expctr.data.datamodules import RatingsDataModule
from expctr.data.explanations import ExplanationStore
from expctr.distributed import all_gather_objects
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.fsdp import unsharded
from expctr.rl.policy import Policy
from expctr.rl.rewards import Reward
from expctr.systems import PLAIN

_UNTRAINED = 2**32
"""Seeds the noise of the untrained model's explanations, in place of an epoch."""


class Models:
    """The models in memory, and the explanations that they have written.

    Args:
        policy: writes explanations.
        ctr: the CTR model that reads them; none where only the policy is trained.
        plain: the same model without text: the table's baseline.
        encoder: turns explanations into vectors for `ctr`.
    """

    data: RatingsDataModule
    """Set when a run begins."""

    def __init__(
        self,
        policy: Policy,
        ctr: ClickModel | None = None,
        plain: ClickModel | None = None,
        encoder: SentenceEncoder | None = None,
    ) -> None:
        self.policy, self.ctr, self.plain, self.encoder = policy, ctr, plain, encoder
        self.store = ExplanationStore()
        self.ctr_trained = False
        """Has a CTR stage ended, and none begun since?"""
        self.batches = 0
        """Training batches so far, over all stages: the x of every curve."""
        self.skipped_updates = 0
        """Rollout batches so far whose rewards were all equal."""
        self._vectors: dict[int, Tensor] = {}

    @property
    def seed(self) -> int:
        """Of everything drawn: first weights, sampling noise, minibatches, dropout."""
        return int(self.data.seed)

    @property
    def click_models(self) -> list[ClickModel]:
        """With text, then without, as far as there are any."""
        return [model for model in (self.ctr, self.plain) if model is not None]

    @property
    def plain_name(self) -> str:
        """What the CTR model without text is called in the table."""
        return self.plain.name if self.plain is not None else PLAIN.name

    def forget_vectors(self) -> None:
        """Drop the cached vectors: explanations were added, or the encoder's mean has changed."""
        self._vectors = {}

    def stored_vectors(self, samples: Tensor, draw: int = 0) -> Tensor:
        """Vectors of the samples' stored explanations, `[batch, dim]`; 0 where there is none.

        Args:
            samples: their ids, `[batch]`.
            draw: which explanation of each, where there are several.
        """
        assert self.encoder is not None
        if draw not in self._vectors:
            everyone = range(self.data.samples.height)
            self._vectors[draw] = self.encoder.vectors(self.store.texts(everyone, draw), samples.device)
        return self._vectors[draw][samples]

    def sample_explanations(self, batch: Batch, epoch: int, count: int = 1, adapter: bool = True) -> list[list[str]]:
        """Several sampled explanations per row; each prompt is computed once.

        Args:
            batch: the rows, with titles.
            epoch: seeds the noise, together with the sample.
            count: explanations per row.
            adapter: the policy, or the untrained base.
        """
        with unsharded(self.policy.model):
            if not len(batch):  # a rank may have none of the last rows
                return []
            noise = self.policy.noise(self.seed, epoch, 0, batch.sample.tolist(), repeats=count)
            texts = self.policy.explain(batch.texts, noise, adapter)[1]
        return [texts[i : i + count] for i in range(0, len(texts), count)]

    def untrained_explanations(self, batch: Batch, count: int = 1) -> list[list[str]]:
        """Several explanations per row, sampled by the untrained model; each is written once and kept.

        All ranks call it alike.
        """
        kept, samples = self.store.untrained, batch.sample.tolist()
        missing = [len(kept.get(sample, ())) < count for sample in samples]
        if any(all_gather_objects(any(missing))):
            rows = batch.select(torch.tensor(missing, dtype=torch.bool, device=batch.label.device))
            written = self.sample_explanations(rows, _UNTRAINED, count, adapter=False)
            for part in all_gather_objects([*zip(rows.sample.tolist(), written, strict=True)]):
                kept.update(part)
        return [kept[sample][:count] for sample in samples]

    def untrained_texts(self, batch: Batch) -> list[str]:
        """One explanation per row, sampled by the untrained model; see `untrained_explanations`."""
        return [texts[0] for texts in self.untrained_explanations(batch)]

    def explain(
        self, batch: Batch, adapter: bool = True, earlier: Rollout | None = None
    ) -> tuple[dict[str, Any], Rollout | None]:
        """Greedy explanations, by the policy or the untrained base, and their scores.

        Returns:
            Columns: `text` and `s_u`; with a trained CTR model also `s_r`, and, for the policy, `s_0` and `s_plain`.
            Then the rollout, which can be reused when the same rows are explained again.
        """
        texts: list[str] = []
        with unsharded(self.policy.model):
            if len(batch):  # a rank may have none of the last rows
                earlier, texts = self.policy.explain(batch.texts, adapter=adapter, earlier=earlier)
            columns: dict[str, Any] = {"text": texts, "s_u": self.policy.lc_scorer.scores(batch.texts, texts)}
        if self.ctr_trained and self.ctr and self.plain and self.encoder:
            columns["s_r"] = self.ctr.score(batch, self.encoder.vectors(texts, batch.label.device))
            if adapter:
                columns["s_0"] = self.ctr.score(batch)
                columns["s_plain"] = self.plain.score(batch)
        return columns, earlier

    def compare(self, batch: Batch, rewards: Sequence[Reward]) -> dict[str, Any]:
        """Everything that a table shows of a batch: the policy's explanations, the untrained model's (`..._untrained`),
        their scores and rewards, and the frozen base asked directly (`s_icl`).
        """
        with unsharded(self.policy.model):
            s_icl = self.policy.direct.scores(batch.texts)
        untrained, rollout = self.explain(batch, adapter=False)
        trained, _ = self.explain(batch, earlier=rollout)
        before = {f"{name}_untrained": values for name, values in untrained.items()}
        return {**trained, **reward_columns(rewards, batch, trained), **before, "s_icl": s_icl}


def reward_columns(rewards: Sequence[Reward], batch: Batch, columns: dict[str, Any]) -> dict[str, Tensor]:
    """Raw rewards of explanations that are scored already, `[rows]` each, by the names of their columns."""
    values = {f"reward_{reward.name}": reward.evaluate(batch, columns["text"], columns) for reward in rewards}
    return {name: value for name, value in values.items() if value is not None}
