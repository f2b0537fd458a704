"""The staged module, a LightningModule that runs stages: set-up, logging, validation, test, prediction, checkpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from expctr.data.batches import Batch, BatchSpec, SampleText
from expctr.data.explanations import ExplanationStore
from expctr.data.features import Features
from expctr.data.ratings_module import RatingsDataModule
from expctr.distributed import all_gather_columns, all_gather_objects, rank, world_size
from expctr.errors import BadRunError, UserError
from expctr.llm.sharding.fsdp import unsharded
from expctr.metrics import ctr_metrics
from expctr.modules.checks import check_device, check_precision, section
from expctr.modules.frozen_models import check_traits, traits
from expctr.modules.resume import group_options, prime, skip_idle_epochs, split_critic, use_current_options
from expctr.modules.run_state import load_run_state, run_state
from expctr.modules.scorer_check import check_scorer, in_words
from expctr.nan_guard import describe_rows
from expctr.rl.rewards import ICAlignment, LCAlignment, Reward, Scorers
from expctr.seeding import reseed, seed_of
from expctr.stages.base import Place, Stage
from expctr.stages.ctr import CTRStage
from expctr.stages.models import Models, as_lists, reward_columns, texts_by_row
from expctr.stages.plan import Plan, PlanEntry, StageKind, lr_factor
from expctr.stages.policy import PolicyStage
from expctr.systems import AUG, LLM, PLAIN

_SHOWN = {"reward_lc", "reward_ic", "kl", "loss", "auc_llm", "auc_aug"}
"""What the progress bar shows."""


class StagedModule(L.LightningModule):
    """Trains by a plan of stages.

    A subclass sets `models`, and names its stages in `kinds`. `StageScheduler` gives it the plan and the rewards. The
    stage is looked up at each use (`plan.at(trainer.current_epoch)`) and not set by a hook: a run that is resumed in
    the middle of an epoch gets no `on_train_epoch_start`, and the loaders are made before it.
    """

    models: Models
    kinds: tuple[StageKind, ...]
    """Stages that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no base weights
        self.plan = Plan()
        self.scheduled = False
        """Has a scheduler given the plan?"""
        self.rewards: dict[StageKind, Sequence[Reward]] = {}
        """Rewards of the LC and the IC stage."""
        self.explanations = 1
        """Per row, which the CTR stage learns from."""
        self.evaluated: dict[str, list[Any]] = {}
        """Columns of the last validation, test or prediction, by name, in the order of the samples."""
        self._columns: list[Mapping[str, list[Any]]] = []

    # --- set-up

    def set_plan(self, plan: Plan, rewards: Mapping[StageKind, Sequence[Reward]], explanations: int = 1) -> None:
        """Train by a plan, as far as this module has its stages.

        Args:
            plan: all epochs.
            rewards: of the LC and the IC stage.
            explanations: per row, which the CTR stage learns from.
        """
        self.plan = Plan(entry for entry in plan.full if entry.stage in self.kinds)
        if not self.plan:
            raise UserError(f"the plan has no stage of {type(self).__name__}, which has {', '.join(self.kinds)}")
        self.rewards = {stage: found for stage, found in rewards.items() if stage in self.kinds}
        self.explanations = explanations

    @property
    def entry(self) -> PlanEntry:
        """Where in the plan training is."""
        return self.plan.at(self.trainer.current_epoch)

    @property
    def stage(self) -> Stage:
        """The stage whose turn it is."""
        return self._stages[self.entry.stage]

    def all_rewards(self, stage: StageKind = "lc") -> list[Reward]:
        """Of all stages, each name once: a stage's own ones before those of the others."""
        found: dict[str, Reward] = {}
        for reward in chain(self.rewards.get(stage, ()), *self.rewards.values()):
            found.setdefault(reward.name, reward)
        return list(found.values())

    @property
    def data(self) -> RatingsDataModule:
        """The data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined,no-any-return]

    @property
    def store(self) -> ExplanationStore:
        """The explanations gathered so far."""
        return self.models.store

    @property
    def batches(self) -> int:
        """Training batches so far, over all stages: the x of every curve."""
        return self.models.batches

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.trainer.default_root_dir)

    def setup(self, stage: str) -> None:
        """Make the stages, and say which batches they want."""
        check_device(self.trainer)
        if not isinstance(getattr(self.trainer, "datamodule", None), RatingsDataModule):
            raise UserError(f"{type(self).__name__} needs a data module of expctr, such as MovieLensDataModule")
        self.models.data = self.data
        self._stages: dict[StageKind, Stage] = {
            kind: PolicyStage(self, self.models, rewards) for kind, rewards in self.rewards.items()
        }
        if "ctr" in self.kinds:
            self._stages["ctr"] = CTRStage(self, self.models, self.explanations)
        self.data.request(lambda: self.stage.train_batches(self.entry), self._val_batches, self._test_batches)
        if stage == "fit":
            self._set_length()

    def _val_batches(self) -> BatchSpec:
        if self.trainer.state.fn == TrainerFn.FITTING:
            return self.stage.val_batches(self.entry)
        return self._test_batches()

    def _test_batches(self) -> BatchSpec:
        """As many explanations in memory at a time as `eval_batch_size` says, however many there are per row."""
        return BatchSpec(max(1, self.data.eval_batch_size // self._per_row), titles=True)

    @property
    def _per_row(self) -> int:
        """Explanations per row outside of training."""
        return self.models.policy.evaluation.samples

    def _set_length(self) -> None:
        """Let the trainer end with a scheduler's plan."""
        if self.scheduled:
            self.trainer.fit_loop.max_epochs = len(self.plan)

    def teardown(self, stage: str) -> None:
        """The next run has a plan of its own."""
        self.scheduled = False

    def configure_model(self) -> None:
        """Load the base, build the CTR models, and give them to the rewards; only once."""
        check_precision(self.trainer)
        if not self.models.policy.built:
            self.build_models()
        models = self.models
        scorers = Scorers(models.policy.lc_scorer, models.ctr, models.encoder, models.untrained_texts)
        for rewards in self.rewards.values():
            for reward in rewards:
                reward.attach(scorers)

    def build_models(self) -> None:
        """Load and build what `models` names."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        """AdamW for the policy with its schedule, Adam for each CTR model."""
        policy = self.models.policy
        optimizers = [policy.optimizer(), *(model.optimizer() for model in self.models.click_models)]
        for optimizer in optimizers:
            prime(optimizer)
        self._optimizer_options = group_options(optimizers)
        sizes, limit = self.data.rollout_batches(), self.trainer.limit_train_batches
        used = sizes[: limit if isinstance(limit, int) else int(limit * len(sizes))]
        stages = [epochs * sum(map(policy.steps, used)) for epochs in self.plan.policy_epochs()]
        warmup = max(1, round(policy.ppo.warmup * sum(stages)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizers[0], lambda step: lr_factor(step, stages, warmup, policy.ppo.final_lr)
        )
        return optimizers, [schedule]

    def on_fit_start(self) -> None:
        """Refuse what cannot be trained."""
        self.data.check_rows(validated=any(entry.stage == "ctr" for entry in self.plan))
        fewest, ranks = min(self.data.rollout_batches(), default=0), self.trainer.world_size
        if fewest < ranks:
            raise UserError(f"a rollout batch of {fewest} rows for {ranks} ranks: raise data.rollout_batch_size")
        limit = self.trainer.limit_train_batches
        batches = {"rollout": len(self.data.rollout_batches())}
        if "ctr" in self.kinds:
            batches["CTR"] = -(-len(self.data.table("train")) // self.data.ctr_batch_size)
        for name, count in batches.items():
            if isinstance(limit, float) and 0 < limit < 1 and int(limit * count) < 1:
                raise UserError(
                    f"trainer.limit_train_batches is {limit}: of the {count} {name} batches of an epoch none would be "
                    "left. Fix: raise it, or give a whole number of batches"
                )

    def on_train_start(self) -> None:
        """Continue with the options as they are now; at a run's start, test the LC scorer."""
        use_current_options(self.trainer, self._optimizer_options)
        if not self.batches:  # not in `on_fit_start`: sharded, a checkpoint is restored after it
            self._check_scorer()

    def _check_scorer(self) -> None:
        texts = self.data.table("val").texts[:64] or self.data.table("train").texts[:64]
        with unsharded(self.models.policy.model):
            found = self.models.policy.lc_scorer.check(texts)
        self._log({"lc/gap": found.gap, "lc/order": found.order, "lc/mass": found.mass})
        self.print(in_words(found))
        is_reward = any(isinstance(reward, LCAlignment) for reward in self.all_rewards())
        check_scorer(found, self.models.policy.lc_scorer.options, is_reward)

    # --- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch of the stage whose turn it is."""
        entry = self.entry
        reseed(self.models.seed, entry.seed_epoch, batch_idx, rank())  # so that no generator's state is in a checkpoint
        stats = self.stage.step(batch, Place(entry, len(self.plan), self.trainer.current_epoch, batch_idx))
        self.models.batches += 1
        self._log({f"{entry.stage}/{name}": value for name, value in stats.items()})

    def on_train_epoch_end(self) -> None:
        """Write the epoch's explanations to the run folder."""
        if rank() == 0 and not vars(self.trainer)["fast_dev_run"]:
            self.store.flush(self.folder / "explanations", f"{self.entry.seed_epoch:03d}-{self.entry.name}")
        self.store.rows = []

    def on_train_end(self) -> None:
        """Say how many updates were skipped."""
        if self.models.skipped_updates:
            self.print(
                f"{self.models.skipped_updates} rollout batches had equal rewards, so no update was made on them"
            )

    # --- validation, test, prediction

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As the stage validates, or, in `expctr validate`, as a test; explanations get their rewards, too."""
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        columns = self.stage.validate(batch, self.entry) if fitting else self.models.explain(batch, self._per_row)[0]
        if "text" in columns:
            rewards = self.all_rewards(self.entry.stage) if fitting else self.all_rewards()
            columns |= reward_columns(rewards, batch, columns)
        self._keep(batch, columns)

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split; early stopping."""
        self.evaluated = columns = self._gather()
        written = columns.pop("sampled", None) or [[text] for text in columns.get("text", ())]
        if written:
            self.store.keep(columns["sample"], written)
            self.models.forget_vectors()
        labels, metrics = torch.tensor(columns.get("label", [])), {}
        for system in (LLM, AUG, PLAIN):
            if system.column in columns:
                metrics[system.key] = ctr_metrics(torch.tensor(columns[system.column]), labels)
                self._log({f"val/{metric}_{system.key}": value for metric, value in metrics[system.key].items()})
        rewards = {name: values for name, values in columns.items() if name.startswith("reward_")}
        self._log({f"val/{name}": float(torch.tensor(values).mean()) for name, values in rewards.items()})
        if "s_u" in columns:
            self._log({"val/s_u_above_half": _share_above_half(columns["s_u"])})
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        if fitting and self.stage.end_epoch(metrics, entry := self.entry):
            self.plan.stop(entry)
            self._set_length()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Everything that the table shows of one batch."""
        self._keep(batch, self.models.compare(batch, self.all_rewards(), self._per_row))

    def on_test_epoch_end(self) -> None:
        """Gather the rows, and score each with the explanations of another row (its own, if there is no other)."""
        self.evaluated = columns = self._gather()
        if self.models.ctr_trained and columns:
            samples, texts = columns["sample"], texts_by_row(columns)
            generator = torch.Generator().manual_seed(seed_of(self.models.seed))
            circle = torch.randperm(len(samples), generator=generator).tolist()
            others = dict(zip(circle, circle[1:] + circle[:1], strict=True))
            columns["s_r_exchanged"] = self.score_texts(
                samples, [text for i in range(len(samples)) for text in texts[others[i]]]
            )

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Explanation, s_u, s_r and the scores without the explanation of each row."""
        self._keep(batch, self.models.explain(batch, self._per_row)[0])

    def on_predict_epoch_end(self) -> None:
        """Gather the rows; `evaluation` writes them."""
        self.evaluated = self._gather()

    def score_texts(self, samples: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The CTR model's scores of test rows with these explanations in place of their own; all ranks call it alike.

        Args:
            samples: ids of test rows, in any order and number.
            texts: one explanation each; or several, next to each other, whose scores are averaged.
        """
        assert self.models.ctr is not None
        assert self.models.encoder is not None
        count = len(texts) // max(1, len(samples))
        scores = self.models.ctr.score(
            self._test_rows(samples).repeat(count), self.models.encoder.vectors(texts, self.device)
        )
        return [float(score) for score in scores.unflatten(0, (len(samples), count)).mean(1)]

    def explain_prompts(self, samples: Sequence[int], prompts: Sequence[SampleText]) -> list[dict[str, Any]]:
        """Explain test rows, as the test does, with other prompts than their own; the CTR model reads their own ids.

        All ranks call it alike and share the work.

        Args:
            samples: ids of test rows, in any order and number.
            prompts: one for each.

        Returns:
            Of each: `text`, `s_u` and, with a trained CTR model, `s_r`.
        """
        size, written = self._test_batches().size, []
        for start in range(0, len(prompts), size):
            places = range(start, min(start + size, len(prompts)))[rank() :: world_size()]
            batch = replace(self._test_rows([samples[i] for i in places]), texts=[prompts[i] for i in places])
            columns = as_lists(self.models.explain(batch, self._per_row)[0])
            names = [name for name in ("text", "s_u", "s_r") if name in columns]
            written += [(place, {name: columns[name][i] for name in names}) for i, place in enumerate(places)]
        found = dict(row for part in all_gather_objects(written) for row in part)
        return [found[place] for place in range(len(prompts))]

    def _test_rows(self, samples: Sequence[int]) -> Batch:
        """Rows of the test split by their ids, without titles."""
        table = self.data.table("test")
        position = {sample: i for i, sample in enumerate(table.sample.tolist())}
        return table.batch([position[sample] for sample in samples], with_text=False).to(self.device)

    def _keep(self, batch: Batch, columns: Mapping[str, Any]) -> None:
        self._columns.append(as_lists({**columns, "sample": batch.sample, "label": batch.label}))

    def _gather(self) -> dict[str, list[Any]]:
        """The columns of all batches and ranks, in the order of the samples."""
        columns = all_gather_columns(self._columns, order="sample")
        self._columns = []
        if columns:
            self._check_finite(columns)
        return columns

    def _check_finite(self, columns: Mapping[str, list[Any]]) -> None:
        """Name the rows whose scores are NaN or infinite, which no metric could."""
        texts = columns.get("text") or self.store.texts(columns["sample"])
        for name in sorted(name for name in columns if name.startswith("s_")):
            bad = [i for i, value in enumerate(columns[name]) if not math.isfinite(value)]
            if bad:
                rows = describe_rows([(columns["sample"][i], texts[i]) for i in bad], len(texts))
                fix = LCAlignment.fix if name.startswith(("s_u", "s_icl")) else ICAlignment.fix
                raise BadRunError(f"scored after {self.batches} batches: {name} is NaN or infinite{rows}. {fix}")

    # --- logging

    def _log(self, values: dict[str, float]) -> None:
        """To all loggers, by the number of batches so far: optimizer steps differ in size from stage to stage.

        Callbacks, such as EarlyStopping, find the values in `callback_metrics`.
        """
        for logger in self.trainer.loggers:
            logger.log_metrics({k: v for k, v in values.items() if math.isfinite(v)}, self.batches)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        shown = {k: v for k, v in values.items() if k.split("/")[-1] in _SHOWN}
        self.trainer.progress_bar_metrics.update(shown)

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Trained weights only, and all state that is not a weight."""
        models = self.models
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["features"] = self.data.features.state_dict()
        checkpoint["frozen"] = self._frozen(models.ctr_trained)
        checkpoint["expctr"] = run_state(models, self.plan, self.rewards)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse of `on_save_checkpoint`, if the data are the same."""
        models = self.models
        self.data.features.check_same(Features.from_state(checkpoint["features"]))
        state = section(checkpoint, "expctr", self)
        frozen = checkpoint.get("frozen", {})  # older checkpoints have none
        for option, found in self._frozen("encoder.path" in frozen).items():
            if option in frozen:
                check_traits(found, frozen[option], option)
        load_run_state(state, models, self.plan, self.rewards)
        if self.trainer.state.fn == TrainerFn.FITTING:
            skip_idle_epochs(checkpoint, self.plan)
            if "optimizer_states" in checkpoint:  # sharded states are loaded by the strategy
                split_critic(checkpoint, sum(p.requires_grad for p in models.policy.model.parameters()))
            self._set_length()

    def _frozen(self, with_encoder: bool) -> dict[str, Any]:
        """The traits of the base, and of the encoder where a click model has learnt from it."""
        frozen = {"llm.path": self._base_traits}
        if with_encoder and self.models.encoder is not None:
            frozen["encoder.path"] = self._encoder_traits
        return frozen

    @cached_property
    def _base_traits(self) -> dict[str, Any]:
        base = ((name, p) for name, p in self.named_parameters() if not p.requires_grad)
        llm = self.models.policy.model
        return traits(base, llm.causal.config, llm.tokenizer, llm.eos_ids)

    @cached_property
    def _encoder_traits(self) -> dict[str, Any]:
        assert self.models.encoder is not None
        return traits(*self.models.encoder.parts)


def _share_above_half(scores: Sequence[float]) -> float:
    return sum(score > 0.5 for score in scores) / max(1, len(scores))
