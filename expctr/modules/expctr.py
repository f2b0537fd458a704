"""ExpCTR: the explainer and the CTR model, each trained in its stages (paper 4.3.2). The only module that logs."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from expctr.ctr.encoder import EncoderOptions, SentenceEncoder
from expctr.data.batches import Batch, SampleText
from expctr.data.explanations import ExplanationStore
from expctr.data.features import Features
from expctr.distributed import all_gather_objects, all_mean_std, all_sum, rank, world_size
from expctr.errors import BadRunError, UserError
from expctr.llm.rollout import Rollout
from expctr.llm.sharding.fsdp import shard, unsharded
from expctr.metrics import ctr_metrics
from expctr.modules.ctr import TOO_FAST, CTRModule
from expctr.modules.explainer import PPOExplainerModule
from expctr.modules.guard import DIVERGED, IMPRECISE, Guard, check_precision, check_rows, named, section
from expctr.modules.rates import follow_options
from expctr.rl.options import ICOptions
from expctr.rl.rewards import alignment, text_gain
from expctr.seeding import reseed, seed_of
from expctr.stages.plan import PlanEntry, lr_factor, policy_stages
from expctr.stopwatch import Stopwatch

BLIND = 0.75
"""Share of sentence pairs in the right order under which the LC scorer is called blind."""


class ExpCTRModule(L.LightningModule):
    """Trains explanations and click predictions together.

    Args:
        explainer: the policy and its rewards.
        ctr: the CTR model that reads the explanations' vectors. A second one without text is trained beside it: the
            table's baseline.
        encoder: the sentence encoder (Eq. 11); `nano` is the shipped model.
        ic: the IC reward (Eq. 13).
    """

    def __init__(
        self,
        explainer: PPOExplainerModule,
        ctr: CTRModule,
        encoder: EncoderOptions = EncoderOptions(),
        ic: ICOptions = ICOptions(),
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold no base weights
        self.explainer, self.ctr = explainer, ctr
        self.baseline = CTRModule(ctr.backbone, replace(ctr.options, crossfit=1))
        self.encoder, self.ic = SentenceEncoder(encoder), ic
        self.plan: Sequence[PlanEntry] = ()
        self.store = ExplanationStore()
        self.ctr_trained = False
        self._stopped_in = 0  # the iteration whose CTR stage stopped last
        self.batches = 0
        """Training batches so far, over all stages: the x of every curve."""
        self.skipped_updates = 0
        """Rollout batches so far whose rewards were all equal."""
        self._vectors: Tensor | None = None
        self.text_mean = torch.zeros(())
        """Taken off every explanation's vector, `[dim]`; a single 0 where vectors are not centred."""
        self._columns: list[dict[str, Any]] = []
        self.evaluated: dict[str, list[Any]] = {}
        """Columns of the last validation, test or prediction, by name, in the order of the samples."""

    # --- set-up

    @property
    def entry(self) -> PlanEntry:
        """Where in the plan training is."""
        return self.plan[min(self.trainer.current_epoch, len(self.plan) - 1)]

    @property
    def ctr_stopped(self) -> bool:
        """Has the CTR stage under way nothing left to learn?"""
        return self.entry.stage == "ctr" and self.entry.iteration == self._stopped_in

    @property
    def trains_ctr(self) -> bool:
        """Is a CTR stage under way?"""
        return self.trainer.state.fn == "fit" and self.entry.stage == "ctr"

    @property
    def writes_validation(self) -> bool:
        """Are explanations of the validation rows written now?"""
        return not self.trains_ctr or (self.entry.step == 0 and bool(self.store.latest))

    @property
    def data(self) -> Any:
        """The data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def seed(self) -> int:
        """Of everything drawn: first weights, sampling noise, minibatches, dropout."""
        return int(self.data.seed)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.trainer.default_root_dir)

    def configure_model(self) -> None:
        """Load the base and build the CTR models for the data's vocabularies; once."""
        check_precision(self.trainer)
        if self.explainer.built:
            return
        features = self.data.features
        mesh = self.device_mesh["data_parallel"] if self.device_mesh is not None else None
        self.explainer.build(self.data.nouns, self.seed, mesh, self.trainer.strategy.root_device)
        self.ctr.build(features.vocabulary, self.encoder.dim, self.seed)
        self.baseline.build(features.vocabulary, seed=self.seed)
        if mesh is not None:
            shard(self.explainer.model, self.explainer.value_head, mesh)
            self.ctr.shard(mesh)
            self.baseline.shard(mesh)

    def configure_optimizers(self) -> Any:
        """AdamW for the policy with its schedule, Adam for each CTR model."""
        policy = self.explainer.optimizer()
        optimizers = [policy, self.ctr.optimizer(), self.baseline.optimizer()]
        for optimizer in optimizers:
            _prime(optimizer)
        stages, options = self._policy_steps(), self.explainer.ppo
        warmup = max(1, round(options.warmup * sum(stages)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            policy, lambda step: lr_factor(step, stages, warmup, options.final_lr)
        )
        return optimizers, [schedule]

    def _optimizers(self) -> list[LightningOptimizer]:
        """Of the policy, the CTR model with text, and the one without."""
        return cast(list[LightningOptimizer], self.optimizers())

    def _policy_steps(self) -> list[int]:
        """Optimizer steps of the policy in each LC and IC stage."""
        sizes, limit = self.data.rollout_batches(), self.trainer.limit_train_batches
        used = sizes[: limit if isinstance(limit, int) else int(limit * len(sizes))]
        return [epochs * sum(map(self.explainer.steps, used)) for epochs in policy_stages(self.plan)]

    def on_fit_start(self) -> None:
        """Refuse what cannot be trained."""
        check_rows(self.data, validated=any(entry.stage == "ctr" for entry in self.plan))
        fewest, ranks = min(self.data.rollout_batches(), default=0), self.trainer.world_size
        if fewest < ranks:
            raise UserError(f"a rollout batch of {fewest} rows for {ranks} ranks: raise data.rollout_batch_size")

    def on_train_start(self) -> None:
        """Go on by the options as they are now; measure whether the LC scorer sees what it is to score, once a run."""
        follow_options(self.trainer)
        if not self.batches:  # sharded, a checkpoint is restored after `on_fit_start`
            self._measure_gap()

    def _measure_gap(self) -> None:
        texts = self.data.table("val").texts[:64] or self.data.table("train").texts[:64]
        with unsharded(self.explainer.model):
            gap, order = self.explainer.lc_gap(texts)
        self._log({"lc/gap": gap, "lc/order": order})
        told = f"{order:.0%} of pairs told apart, mean difference of s_u {gap:.3f}"
        self.print(f"LC scorer: {told}")
        if order < BLIND:
            warnings.warn(
                f"the LC scorer is blind: it hardly tells a liking sentence from a disliking one ({told}), so the LC "
                "reward is noise. Choose another base (llm.path), other answers (lc.positive, lc.negative) or another "
                "template (prompts.lc)",
                stacklevel=1,
            )

    # --- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One batch of the stage whose turn it is."""
        # counter-based, so that no generator's state is in a checkpoint
        reseed(self.seed, self.trainer.current_epoch, batch_idx, rank())
        stage = self.entry.stage
        stats = self._ctr_step(batch, batch_idx) if stage == "ctr" else self._policy_step(batch, batch_idx)
        self.batches += 1
        self._log({f"{stage}/{name}": value for name, value in stats.items()})

    def _guard(self, batch: Batch, batch_idx: int, texts: Sequence[str]) -> Guard:
        place = f"{self.entry.name}, epoch {self.trainer.current_epoch + 1} of {len(self.plan)}, batch {batch_idx + 1}"
        return Guard(place, batch.sample.tolist(), texts)

    def _policy_step(self, batch: Batch, batch_idx: int) -> dict[str, float]:
        """A rollout, its rewards, and a PPO update (Eq. 7).

        Where all rewards are equal there is no update, not one by the KL penalty either: whitened, what is left would
        be as large as a step that something was learnt from. The learning rate moves on as if there had been one.
        """
        watch, epoch, group = Stopwatch(), self.trainer.current_epoch, self.explainer.rollout_options.group_size
        noise = self.explainer.noise(self.seed, epoch, batch_idx, batch.sample.tolist())
        cut = self.explainer.prompts.cut
        cut.update(dict.fromkeys(cut, 0))  # not cleared: all ranks are to add up the same, whatever they cut
        with watch("all"):
            with unsharded(self.explainer.model):
                rollout, texts = self.explainer.explain(batch.texts, noise, watch=watch)
                batch = batch.repeat(group)
                guard = self._guard(batch, batch_idx, texts)
                guard.finite("the policy's log-probability", rollout.logprobs, DIVERGED)
                empty = guard.written()
                with watch("score"):
                    scores, components = self._rewards(batch, texts)
            for name, values in scores.items():
                guard.finite(name, values, _mend(name))
            total, stats = self._normalised(components, batch.label)
            stats |= {f"{name}_mean": float(all_mean_std(values)[0]) for name, values in scores.items()}
            if self.explainer.nothing_to_learn([rewards for rewards, _ in components.values()], batch.label, rollout):
                self._skip(guard.place)
            else:
                generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, batch_idx))
                policy = self._optimizers()[0]
                stats |= self.explainer.update(rollout, total, policy, self.manual_backward, generator, watch, guard)
        stats |= {"empty": empty, "skipped_updates": float(self.skipped_updates)}
        schedule = cast(LRScheduler, self.lr_schedulers())
        stats["lr"] = float(schedule.get_last_lr()[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")  # so it is where an update is skipped
            for _ in range(self.explainer.steps(int(all_sum(torch.tensor(len(batch) // group, device=self.device))))):
                schedule.step()
        self._record(batch, texts, scores, {name: rewards for name, (rewards, _) in components.items()}, total)
        for what, count in cut.items():
            stats[f"cut_{what}"] = float(all_sum(torch.tensor(count, device=self.device)))
        seconds = watch.seconds
        stats |= {f"seconds_{part}": value for part, value in seconds.items()}
        stats["samples_per_second"] = float(all_sum(torch.tensor(len(batch), device=self.device))) / seconds["all"]
        stats["tokens_per_second"] = float(all_sum(rollout.response_mask.sum())) / seconds["all"]
        return stats

    def _normalised(
        self, components: dict[str, tuple[Tensor, float]], labels: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """What PPO sees of a reward's weighted components, `[rows]`, and what TensorBoard shows of them."""
        total = torch.zeros_like(labels)
        stats: dict[str, float] = {}
        for name, (rewards, weight) in components.items():
            normalised, bounded = self.explainer.normalised(rewards, labels, name)
            total = total + weight * normalised
            mean, std = all_mean_std(rewards)
            stats |= {f"reward_{name}": float(mean), f"reward_{name}_std": float(std)}
            stats[f"reward_{name}_normalised"] = float(all_mean_std(normalised)[0])
            stats[f"reward_{name}_clipped"] = float(all_mean_std(bounded.float())[0])
        mean, std = all_mean_std(total)
        return total, stats | {"reward_normalised": float(mean), "reward_normalised_std": float(std)}

    def _skip(self, place: str) -> None:
        if not self.skipped_updates:
            self.print(
                f"{place}: all rewards are equal, so there is nothing to learn and no update. TensorBoard counts such "
                "batches in skipped_updates"
            )
        self.skipped_updates += 1

    def on_train_end(self) -> None:
        """Say how many updates were skipped."""
        if self.skipped_updates:
            self.print(f"{self.skipped_updates} rollout batches had equal rewards, and no update was made on them")

    def _rewards(self, batch: Batch, texts: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, float]]]:
        """The scores of explanations, and the reward's components with their weights (Eq. 9, 13, 14, 16)."""
        options, stage = self.explainer.reward, self.entry.stage
        scores: dict[str, Tensor] = {}
        components: dict[str, tuple[Tensor, float]] = {}
        lc_weight = 1.0 if stage == "lc" else options.lc_weight
        if lc_weight:
            scores["s_u"] = self.explainer.lc_scores(batch.texts, texts)
            components["lc"] = alignment(scores["s_u"], batch.label, options.metric), lc_weight
        if stage == "ic":
            vectors = self._embed(texts)
            scores["s_r"] = self.ctr.score(batch, vectors, heldout=True)
            scores["s_0"] = self.ctr.score_without_text(batch, heldout=True)
            scores["text_gain"] = text_gain(scores["s_r"], scores["s_0"], batch.label, self.ic.delta)
            components["ic"] = alignment(scores["s_r"], batch.label, options.metric) + scores["text_gain"], 1.0
        return scores, components

    def _record(
        self, batch: Batch, texts: list[str], scores: dict[str, Tensor], rewards: dict[str, Tensor], total: Tensor
    ) -> None:
        columns = {name: values.tolist() for name, values in scores.items()}
        columns |= {f"reward_{name}": values.tolist() for name, values in rewards.items()}
        columns |= {"label": batch.label.int().tolist(), "reward_normalised": total.tolist()}
        parts = all_gather_objects((batch.sample.tolist(), texts, columns))
        entry, epoch = self.entry, self.trainer.current_epoch
        for samples, written, values in parts:
            self.store.add(
                samples,
                written,
                stage=entry.stage,
                iteration=entry.iteration,
                epoch=epoch,
                batch=self.batches,
                **values,
            )
        self._vectors = None

    def _ctr_step(self, batch: Batch, batch_idx: int) -> dict[str, float]:
        """A step of the CTR model with text (Eq. 15), and of the one without."""
        entry = self.entry
        if entry.step == 0 and batch_idx == 0:
            self.ctr.reset(self._optimizers()[1].optimizer)  # each round trains on its own corpus from the start
            self.ctr_trained = False
            train = self.data.table("train").sample.tolist()
            self._log({"ctr/explained": sum(sample in self.store.latest for sample in train) / len(train)})
            if self.encoder.options.centre:
                self._centre_text()
        if self.ctr_stopped:
            return {}
        # where labels are balanced, what is not explained yet is liked more often: z = 0 would come to mean that
        known = [sample in self.store.latest for sample in batch.sample.tolist()]
        explained = torch.tensor(known, dtype=torch.bool, device=self.device)  # a rank may have no rows
        written = any(before.stage != "ctr" for before in self.plan[: self.trainer.current_epoch])
        read = batch.select(explained) if written else batch  # without a policy's stage before, none is explained
        modules: list[tuple[CTRModule, LightningOptimizer, Batch, Tensor | None]] = []
        if int(all_sum(torch.tensor(len(read), device=self.device))):
            modules.append((self.ctr, self._optimizers()[1], read, self._text_vectors(read.sample)))
        if entry.iteration == 1:
            modules.append((self.baseline, self._optimizers()[2], batch, None))
        stats = {}
        for module, optimizer, rows, vectors in modules:
            module.train()
            guard = self._guard(rows, batch_idx, [] if vectors is None else self.store.texts(rows.sample.tolist()))
            loss = module.loss(rows, vectors, guard)
            optimizer.zero_grad()
            self.manual_backward(loss)
            guard.norm("the CTR model's gradient norm", module.gradients(), TOO_FAST)
            optimizer.step()
            name = "loss" if module is self.ctr else "loss_without_text"
            folds = module.options.crossfit
            stats[name] = float(all_sum(loss)) / (self.trainer.world_size * folds)
        return stats

    def _text_vectors(self, samples: Tensor) -> Tensor:
        """Vectors of the samples' latest explanations, `[batch, dim]`; 0 where there is none."""
        if self._vectors is None:
            everyone = range(int(self.data.samples.height))
            self._vectors = self._embed(self.store.texts(everyone))
        return self._vectors[samples]

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors z of explanations (Eq. 11), `[texts, dim]`; 0 for an empty one."""
        vectors = self.encoder.encode(texts, self.device)
        written = torch.tensor([bool(text.strip()) for text in texts], device=vectors.device)
        return vectors - written[:, None] * self.text_mean.to(vectors)

    def _centre_text(self) -> None:
        """Let z = 0 be the mean of the training explanations that this stage learns from."""
        texts = [text for text in self.store.texts(self.data.table("train").sample.tolist()) if text.strip()]
        if texts:
            self.text_mean = self.encoder.encode(texts, self.device).double().mean(0).float()
        self._vectors = None

    def on_train_epoch_end(self) -> None:
        """Write the epoch's explanations to the run folder."""
        name = f"{self.trainer.current_epoch:03d}-{self.entry.name}"
        if rank() == 0:
            self.store.flush(self.folder / "explanations", name)
        self.store.rows = []

    # --- validation, test, predict

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """In the policy's stages explanations are written anew, greedily; for the CTR stage once, at its start, by
        sampling, as those were that it trains on.
        """
        if self.trains_ctr:
            if not self.ctr_stopped:
                self._validate_ctr(batch)
        else:
            self._keep(batch, **self._compare(batch))

    def _validate_ctr(self, batch: Batch) -> None:
        columns: dict[str, Any] = {}
        if self.writes_validation:
            columns["sampled"] = self._sample(batch)
            vectors = self._embed(columns["sampled"])
        else:
            vectors = self._text_vectors(batch.sample)
        self._keep(batch, **columns, s_r=self.ctr.score(batch, vectors), s_plain=self.baseline.score(batch))

    def _sample(self, batch: Batch) -> list[str]:
        """One sampled explanation a row."""
        with unsharded(self.explainer.model):
            if not len(batch):  # a rank may have none of the last rows
                return []
            noise = self.explainer.noise(self.seed, self.trainer.current_epoch, 0, batch.sample.tolist(), repeats=1)
            return self.explainer.explain(batch.texts, noise)[1]

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split; early stopping of the CTR stage."""
        self.evaluated = columns = self._gather()
        written = columns.pop("sampled", columns.get("text"))
        if written is not None:
            self.store.latest.update(zip(columns["sample"], written, strict=True))
            self._vectors = None
        labels = torch.tensor(columns.get("label", []))
        metrics: dict[str, dict[str, float]] = {}
        for name, column in (("llm", "s_u"), ("aug", "s_r"), ("plain", "s_plain")):
            if column in columns:
                metrics[name] = ctr_metrics(torch.tensor(columns[column]), labels)
                self._log({f"val/{metric}_{name}": value for metric, value in metrics[name].items()})
        if "s_u" in columns:
            rewards = alignment(torch.tensor(columns["s_u"]), labels, self.explainer.reward.metric)
            self._log({"val/reward_lc": float(rewards.mean()), "val/s_u_above_half": _share_above(columns["s_u"])})
        if self.trains_ctr and not self.trainer.sanity_checking:
            self._stop_early(metrics)

    def _stop_early(self, metrics: dict[str, dict[str, float]]) -> None:
        if not self.ctr_stopped:
            monitor = self.ctr.options.monitor
            done = self.ctr.best.update(metrics["aug"][monitor])
            if self.entry.iteration == 1:
                done &= self.baseline.best.update(metrics["plain"][monitor])
            if done or self.entry.last:
                self._stopped_in = self.entry.iteration
                self.ctr.best.restore()
                self.baseline.best.restore()
                self.ctr_trained = True

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Every row of the table on one batch, and the same with what the untrained model writes."""
        with unsharded(self.explainer.model):
            icl = self.explainer.icl_scores(batch.texts)
        untrained, rollout = self._evaluate(batch, adapter=False)
        trained = self._compare(batch, rollout)
        self._keep(batch, **trained, **{f"{name}_untrained": values for name, values in untrained.items()}, s_icl=icl)

    def on_test_epoch_end(self) -> None:
        """Gather the rows; `evaluation.results` makes the table of them."""
        self.evaluated = columns = self._gather()
        if self.ctr_trained and columns:
            columns["s_r_exchanged"] = self._score_exchanged(columns["sample"], columns["text"])

    def _score_exchanged(self, samples: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The CTR model's score of each test row with the explanation of another one (its own, where it is alone)."""
        circle = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed_of(self.seed))).tolist()
        others = dict(zip(circle, circle[1:] + circle[:1], strict=True))
        return self.reread(samples, [texts[others[i]] for i in range(len(samples))])

    def reread(self, samples: Sequence[int], texts: Sequence[str]) -> list[float]:
        """The CTR model's scores of test rows with these explanations in place of their own; asked on all ranks alike.

        Args:
            samples: ids of test rows, any of them several times.
            texts: an explanation each.
        """
        table = self.data.table("test")
        position = {sample: i for i, sample in enumerate(table.sample.tolist())}
        batch = table.batch([position[sample] for sample in samples], with_text=False).to(self.device)
        return [float(score) for score in self.ctr.score(batch, self._embed(texts))]

    def rewrite(self, prompts: Sequence[SampleText]) -> tuple[list[str], list[float]]:
        """Greedy explanations of any prompts, and their s_u; asked on all ranks alike, which share the work."""
        size, written = self.data.eval_batch_size, []
        with unsharded(self.explainer.model):
            for start in range(0, len(prompts), size):
                places = range(start, min(start + size, len(prompts)))[rank() :: world_size()]
                rows = [prompts[i] for i in places]
                texts = self.explainer.explain(rows)[1] if rows else []
                written += list(zip(places, texts, self.explainer.lc_scores(rows, texts).tolist(), strict=True))
        found = sorted(row for part in all_gather_objects(written) for row in part)
        return [text for _, text, _ in found], [score for _, _, score in found]

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Explanation, s_u, s_r and the scores without the explanation of each row."""
        self._keep(batch, **self._compare(batch))

    def on_predict_epoch_end(self) -> None:
        """Gather the rows; `evaluation.results` writes them."""
        self.evaluated = self._gather()

    def _evaluate(
        self, batch: Batch, adapter: bool = True, earlier: Rollout | None = None
    ) -> tuple[dict[str, Any], Rollout | None]:
        """Greedy explanations, by the policy or the untrained base, and their scores; the policy's without, too.

        Returns:
            The columns, and the rollout for whom explains the same rows next (`generate`'s `earlier`).
        """
        texts: list[str] = []
        with unsharded(self.explainer.model):
            if len(batch):  # a rank may have none of the last rows
                earlier, texts = self.explainer.explain(batch.texts, adapter=adapter, earlier=earlier)
            columns: dict[str, Any] = {"text": texts, "s_u": self.explainer.lc_scores(batch.texts, texts)}
        if self.ctr_trained:
            columns["s_r"] = self.ctr.score(batch, self._embed(texts))
            if adapter:
                columns["s_0"] = self.ctr.score_without_text(batch)
        return columns, earlier

    def _compare(self, batch: Batch, earlier: Rollout | None = None) -> dict[str, Any]:
        """The policy's columns, and the scores of the CTR model without text."""
        columns, _ = self._evaluate(batch, earlier=earlier)
        if self.ctr_trained:
            columns["s_plain"] = self.baseline.score(batch)
        return columns

    def _keep(self, batch: Batch, **columns: Any) -> None:
        columns |= {"sample": batch.sample, "label": batch.label}
        self._columns.append({k: v.tolist() if isinstance(v, Tensor) else v for k, v in columns.items()})

    def _gather(self) -> dict[str, list[Any]]:
        """The columns of all batches and ranks, in the order of the samples."""
        parts = [part for ranks in all_gather_objects(self._columns) for part in ranks]
        self._columns = []
        if not parts:
            return {}
        columns = {name: [value for part in parts for value in part[name]] for name in parts[0]}
        order = sorted(range(len(columns["sample"])), key=columns["sample"].__getitem__)
        columns = {name: [values[i] for i in order] for name, values in columns.items()}
        self._check_finite(columns)
        return columns

    def _check_finite(self, columns: dict[str, list[Any]]) -> None:
        """Name the rows whose scores are no numbers, which no metric could."""
        texts = columns.get("sampled") or columns.get("text") or self.store.texts(columns["sample"])
        for name in sorted(name for name in columns if name.startswith("s_")):
            bad = [i for i, value in enumerate(columns[name]) if not math.isfinite(value)]
            if bad:
                rows = named([(columns["sample"][i], texts[i]) for i in bad], len(texts))
                raise BadRunError(
                    f"scored after {self.batches} batches: {name} is nan or infinite{rows}. {_mend(name)}"
                )

    # --- logging

    def _log(self, values: dict[str, float]) -> None:
        """To the logger, by the number of batches so far: optimizer steps differ in size from stage to stage."""
        if self.trainer.logger is not None:
            self.trainer.logger.log_metrics({k: v for k, v in values.items() if math.isfinite(v)}, self.batches)
        shown = {k: v for k, v in values.items() if k.split("/")[-1] in _SHOWN}
        self.trainer.progress_bar_metrics.update(shown)

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Trained weights only, and what is not a weight."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["features"] = self.data.features.state_dict()
        checkpoint["expctr"] = {
            "explainer": self.explainer.extra_state(),
            "store": self.store.state_dict(),
            "best": [module.best.state_dict() for module in (self.ctr, self.baseline)],
            "statistics": [module.statistics() for module in (self.ctr, self.baseline)],
            "ctr_trained": self.ctr_trained,
            "stopped_in": self._stopped_in,
            "batches": self.batches,
            "skipped_updates": self.skipped_updates,
            "text_mean": self.text_mean.cpu(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse of `on_save_checkpoint`, if the data are the same."""
        self.data.features.check_same(Features.from_state(checkpoint["features"]))
        state = section(checkpoint, "expctr", self)
        self.explainer.load_extra_state(state["explainer"])
        self.store.load_state_dict(state["store"])
        for module, best in zip((self.ctr, self.baseline), state["best"], strict=True):
            module.best.load_state_dict(best)
        for module, statistics in zip((self.ctr, self.baseline), state.get("statistics", ({}, {})), strict=True):
            module.load_statistics(statistics)
        self.ctr_trained, self._stopped_in, self.batches = state["ctr_trained"], state["stopped_in"], state["batches"]
        self.skipped_updates = state.get("skipped_updates", 0)  # checkpoints of 0.1.0 have none
        self.text_mean, self._vectors = state["text_mean"], None


_SHOWN = {"reward_lc", "reward_ic", "kl", "loss", "auc_llm", "auc_aug"}


def _prime(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer whose stage has not begun its moments now, with step 0: to save one without, torch makes a
    dummy step, and saving would change training.
    """
    for group in optimizer.param_groups:
        for parameter in filter(lambda p: p.requires_grad, group["params"]):
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0, device=parameter.device if group["fused"] else "cpu"),  # as torch has it
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def _mend(score: str) -> str:
    """What to do where a score is no number."""
    return IMPRECISE if score.startswith(("s_u", "s_icl")) else TOO_FAST


def _share_above(scores: Sequence[float]) -> float:
    return sum(score > 0.5 for score in scores) / max(1, len(scores))
