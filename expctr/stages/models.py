"""The models that all stages share, and how they score rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expctr.ctr.click_model import ClickModel
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.batches import Batch
from expctr.data.explanations import ExplanationStore
from expctr.data.ratings_module import RatingsDataModule
from expctr.distributed import all_gather_objects
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.fsdp import unsharded
from expctr.rl.policy import Policy
from expctr.rl.rewards import Reward
from expctr.sentences.faults import count_faults
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

        At most `eval_batch_size` of them are in memory at a time.

        Args:
            batch: the rows, with titles.
            epoch: seeds the noise, together with the sample.
            count: explanations per row.
            adapter: the policy, or the untrained base.
        """
        samples, texts = batch.sample.tolist(), list[str]()
        size = max(1, self.data.eval_batch_size // count)
        with unsharded(self.policy.model):
            for start in range(0, len(batch), size):
                rows = slice(start, start + size)
                noise = self.policy.noise(self.seed, epoch, 0, samples[rows], repeats=count)
                texts += self.policy.explain(batch.texts[rows], noise, adapter, share=count > 1)[1]
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
        self, batch: Batch, count: int = 1, adapter: bool = True, earlier: Rollout | None = None
    ) -> tuple[dict[str, Any], Rollout | None]:
        """Explanations by the policy or the untrained base, and their scores.

        Args:
            batch: the rows.
            count: explanations per row: 1 is greedy; several are sampled, and their scores averaged.
            adapter: the policy, or the untrained base.
            earlier: the rollout of an earlier call with the same rows and `count`.

        Returns:
            Columns: those of `average_explanations` for `s_u` and, with a trained CTR model, `s_r`; then, for the
            policy, also `s_0` and `s_plain`. Then the rollout, which can be reused when the same rows are explained
            again.
        """
        texts: list[str] = []
        repeated = batch.repeat(count)
        with unsharded(self.policy.model):
            if len(batch):  # a rank may have none of the last rows
                noise = self.policy.evaluation_noise(self.seed, batch.texts, count)
                earlier, texts = self.policy.explain(batch.texts, noise, adapter, earlier=earlier, share=True)
            scores = {"s_u": self.policy.lc_scorer.scores(repeated.texts, texts)}
        others = {}
        if self.ctr_trained and self.ctr and self.plain and self.encoder:
            scores["s_r"] = self.ctr.score(repeated, self.encoder.vectors(texts, batch.label.device))
            if adapter:
                others = {"s_0": self.ctr.score(batch), "s_plain": self.plain.score(batch)}
        faults = []
        if count > 1:
            shown = [self.policy.prompts.shown(text) for text in batch.texts]
            faults = [count_faults(text, shown[i // count]) for i, text in enumerate(texts)]
        return {**average_explanations(texts, scores, count, faults), **others}, earlier

    def compare(self, batch: Batch, rewards: Sequence[Reward], count: int = 1) -> dict[str, Any]:
        """Everything that a table shows of a batch: the policy's explanations, the untrained model's (`..._untrained`),
        their scores and rewards, and the frozen base asked directly (`s_icl`). `count` is as for `explain`.
        """
        with unsharded(self.policy.model):
            s_icl = self.policy.direct.scores(batch.texts)
        untrained, rollout = self.explain(batch, count, adapter=False)
        trained, _ = self.explain(batch, count, earlier=rollout)
        before = {f"{name}_untrained": values for name, values in untrained.items()}
        return {**trained, **reward_columns(rewards, batch, trained), **before, "s_icl": s_icl}


def average_explanations(
    texts: Sequence[str], scores: Mapping[str, Tensor], count: int, faults: Sequence[int]
) -> dict[str, Any]:
    """Summarise `count` explanations per row, which stand next to each other.

    Args:
        texts: the explanations, `rows * count`.
        scores: click probabilities by name, `[rows * count]` each.
        count: explanations per row.
        faults: false statements in each explanation, `rows * count`; not used if there is one per row.

    Returns:
        Columns: `text`, the explanation with the fewest faults, and among these the one whose scores are nearest to
        their means; and the means by the scores' names, `[rows]`. With several per row, also their standard deviations
        (`s_u_std`) and all explanations (`texts`).
    """
    if count == 1:
        return {"text": [*texts], **scores}
    tables = {name: values.unflatten(0, (-1, count)) for name, values in scores.items()}
    means = {name: table.mean(1) for name, table in tables.items()}
    squares = {name: (table - means[name][:, None]) ** 2 for name, table in tables.items()}
    distances = torch.stack([*squares.values()]).sum(0).flatten().tolist()
    rows = [range(start, start + count) for start in range(0, len(texts), count)]
    shown = [texts[min(row, key=lambda i: (faults[i], distances[i]))] for row in rows]
    spread = {f"{name}_std": (table.sum(1) / (count - 1)).sqrt() for name, table in squares.items()}
    return {"text": shown, **means, **spread, "texts": [[*texts[row.start : row.stop]] for row in rows]}


def texts_by_row(columns: Mapping[str, Sequence[Any]], suffix: str = "") -> list[list[str]]:
    """All explanations of each row of a test: one, or several; those of the untrained model by `_untrained`."""
    several = columns.get(f"texts{suffix}")
    return [[text] for text in columns[f"text{suffix}"]] if several is None else [*several]


def reward_columns(rewards: Sequence[Reward], batch: Batch, columns: dict[str, Any]) -> dict[str, Tensor]:
    """Raw rewards of explanations that are scored already, `[rows]` each, by the names of their columns."""
    values = {f"reward_{reward.name}": reward.evaluate(batch, columns["text"], columns) for reward in rewards}
    return {name: value for name, value in values.items() if value is not None}


def as_lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns with lists in place of tensors."""
    return {name: values.tolist() if isinstance(values, Tensor) else values for name, values in columns.items()}
