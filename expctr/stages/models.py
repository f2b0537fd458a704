"""The models that all stages share, and how they score rows."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from expctr.ctr.click_model import ClickModel
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.batches import Batch
from expctr.data.datamodules import RatingsDataModule
from expctr.data.explanations import ExplanationStore
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.fsdp import unsharded
from expctr.rl.policy import Policy
from expctr.rl.rewards import Reward
from expctr.systems import PLAIN


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
        self._vectors: Tensor | None = None

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
        self._vectors = None

    def latest_vectors(self, samples: Tensor) -> Tensor:
        """Vectors of the samples' latest explanations, `[batch, dim]`; 0 where there is none."""
        assert self.encoder is not None
        if self._vectors is None:
            everyone = range(self.data.samples.height)
            self._vectors = self.encoder.vectors(self.store.texts(everyone), samples.device)
        return self._vectors[samples]

    def sample_explanations(self, batch: Batch, epoch: int) -> list[str]:
        """One sampled explanation per row."""
        with unsharded(self.policy.model):
            if not len(batch):  # a rank may have none of the last rows
                return []
            noise = self.policy.noise(self.seed, epoch, 0, batch.sample.tolist(), repeats=1)
            return self.policy.explain(batch.texts, noise)[1]

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
