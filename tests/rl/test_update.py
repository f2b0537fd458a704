"""A PPO update on a tiny Llama: what must hold exactly, and that it learns what is rewarded."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import stir_adapter
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import LlamaMLP

from expctr.data.batches import Nouns, SampleText
from expctr.errors import BadRunError, UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.logprobs import score_responses
from expctr.llm.lora import LoraLinear
from expctr.llm.prompts import PromptOptions
from expctr.llm.rollout import Rollout, RolloutOptions
from expctr.nan_guard import NaNGuard
from expctr.rl import losses
from expctr.rl import update as module_under_test
from expctr.rl.normalise import subtract_baseline
from expctr.rl.options import Baseline, KLOptions, PPOOptions, RewardOptions
from expctr.rl.policy import Policy
from expctr.rl.update import PPOUpdate
from expctr.stopwatch import Stopwatch

NOUNS = Nouns("movie", "movies", "viewer", "viewing")
SHORT = PromptOptions(explanation="The liked {items}: {liked}; not {disliked}. Consider {target}:")
REWARDS = [1.0, -0.5, 0.25, -1.0, 0.75]
Build = Callable[..., Policy]


@pytest.fixture
def build(llm_folder: Path) -> Build:
    """A module on the tiny Llama; `stir` gives its adapter weights that change what it says."""

    def make(stir: bool = True, scope: str = "all", **options: Any) -> Policy:
        options.setdefault("rollout", RolloutOptions(max_new_tokens=6))
        options.setdefault("ppo", PPOOptions(lr=1e-3, minibatch_size=4))
        llm = LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4, adapter_scope=scope)
        module = Policy(llm, prompts=SHORT, **options)
        module.build(NOUNS)
        if stir:
            stir_adapter(module.model)
        return module

    return make


def roll(module: Policy, samples: list[SampleText], epoch: int = 0) -> Rollout:
    return module.explain(samples, module.noise(0, epoch, 0, range(len(samples))))[0]


def cut(rollout: Rollout, lengths: list[int]) -> Rollout:
    """The responses shortened to these lengths."""
    mask = torch.arange(rollout.response_ids.shape[1]) < torch.tensor(lengths)[:, None]
    truncated = torch.zeros(len(lengths), dtype=torch.bool)
    parts = rollout.prompt_ids, rollout.prompt_mask, rollout.response_ids, mask, rollout.logprobs * mask, truncated
    return Rollout(*parts, rollout.cache).select(torch.arange(len(lengths)))


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def update(
    module: Policy,
    rollout: Rollout,
    rewards: Tensor | list[float],
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, float]:
    return module.update(
        rollout,
        torch.as_tensor(rewards),
        torch.arange(len(rollout)) % 2.0,
        cast(LightningOptimizer, optimizer or module.optimizer()),
        backward,
        torch.Generator().manual_seed(0),
        Stopwatch(),
        NaNGuard("here", range(len(rollout)), [f"text {i}" for i in range(len(rollout))]),
    )


def weights(module: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def base(module: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if not p.requires_grad}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def assert_moved(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-4


def kl_of(module: Policy, rollout: Rollout) -> float:
    """KL(policy || base) of the whole vocabulary, a mean over the tokens of a rollout: no estimate."""
    logprobs = []
    with torch.no_grad():
        for adapter in (True, False):
            hidden = score_responses(module.model, rollout, adapter, 1.0).hidden
            logprobs.append(module.model.logits(hidden).log_softmax(-1))
    kl = (logprobs[0].exp() * (logprobs[0] - logprobs[1])).sum(-1)
    return float(kl[rollout.response_mask].mean())


@pytest.fixture
def seen_advantages(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The advantages of each update, as they were before whitening."""
    seen: list[Tensor] = []
    whiten = losses.whiten

    def spy(advantages: Tensor, mask: Tensor) -> Tensor:
        seen.append(advantages.clone())
        return whiten(advantages, mask)

    monkeypatch.setattr(losses, "whiten", spy)
    return seen


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_fresh_adapter_begins_at_ratio_1_and_kl_0(
    build: Build, samples: list[SampleText], scope: str, temperature: float
) -> None:
    module = build(stir=False, scope=scope, rollout=RolloutOptions(max_new_tokens=6, temperature=temperature))
    stats = update(module, roll(module, samples), REWARDS)
    assert stats["ratio_first"] == pytest.approx(1, abs=1e-4)
    assert stats["kl"] == pytest.approx(0, abs=1e-4)
    assert stats["kl_per_token"] == pytest.approx(0, abs=1e-4)
    assert stats["explained_variance"] == pytest.approx(0, abs=1e-6)  # a critic that says 0
    second = update(module, roll(module, samples, epoch=1), REWARDS)
    assert second["ratio_first"] == pytest.approx(1, abs=1e-4)
    assert second["kl"] != 0


@pytest.mark.parametrize("scope", ["all", "response"])
@pytest.mark.parametrize("where", ["reward", "loss"])
def test_an_update_does_not_depend_on_the_micro_batch(
    build: Build, samples: list[SampleText], scope: str, where: str
) -> None:
    kl = KLOptions(where="loss", estimator="k3") if where == "loss" else KLOptions()
    results: list[tuple[dict[str, Tensor], dict[str, float]]] = []
    for micro in (None, 3, 1):
        options = PPOOptions(lr=1e-3, minibatch_size=4, micro_batch_size=micro, entropy_coef=0.01)
        module = build(scope=scope, kl=kl, ppo=options)
        before = weights(module)
        rollout = cut(roll(module, samples), [6, 1, 3, 2, 5])
        stats = update(module, rollout, REWARDS)
        assert_moved(before, weights(module))
        results.append((weights(module), stats))
    for other, stats in results[1:]:
        assert_same(results[0][0], other)
        assert stats == pytest.approx(results[0][1], abs=1e-4, rel=1e-4)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_gradient_checkpointing_computes_layers_again_and_learns_the_same(
    build: Build, samples: list[SampleText], scope: str
) -> None:
    results, calls = [], []
    for again in (False, True):
        module = build(scope=scope, ppo=PPOOptions(lr=1e-3, minibatch_size=4, gradient_checkpointing=again))
        rollout, ran = roll(module, samples), [0]

        def count(*_: object, ran: list[int] = ran) -> None:
            ran[0] += 1

        next(m for m in module.modules() if isinstance(m, LlamaMLP)).register_forward_pre_hook(count)
        stats = update(module, rollout, REWARDS)
        results.append((weights(module), stats))
        calls.append(ran[0])
    assert calls[1] - calls[0] == 4  # two passes over two minibatches
    assert_same(results[0][0], results[1][0])
    assert results[1][1] == pytest.approx(results[0][1], abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_an_update_does_not_depend_on_padding(build: Build, samples: list[SampleText], scope: str) -> None:
    results = []
    for pad in (0, 7):
        module = build(scope=scope)
        rollout = cut(roll(module, samples), [6, 1, 3, 2, 5])
        if pad:
            junk = torch.full((5, pad), 9)
            rollout.prompt_ids = torch.cat([junk, rollout.prompt_ids], 1)
            rollout.prompt_mask = torch.cat([junk < 0, rollout.prompt_mask], 1)
            rollout.response_ids = torch.cat([rollout.response_ids, junk], 1)
            rollout.response_mask = torch.cat([rollout.response_mask, junk < 0], 1)
            rollout.logprobs = torch.cat([rollout.logprobs, -junk.float()], 1)
            if rollout.cache is not None:
                ids, mask = rollout.prompt_ids[:, :-1], rollout.prompt_mask[:, :-1]
                with torch.no_grad():
                    rollout.cache = DynamicCache()
                    module.model.hidden(ids, mask, adapter=False, cache=rollout.cache)
        stats = update(module, rollout, REWARDS)
        results.append((weights(module), stats))
    assert_same(results[0][0], results[1][0])
    assert results[1][1] == pytest.approx(results[0][1], abs=1e-4)


@pytest.mark.parametrize("scope", ["all", "response"])
def test_the_base_is_bit_for_bit_what_it_was(build: Build, samples: list[SampleText], scope: str) -> None:
    module = build(scope=scope, ppo=PPOOptions(lr=0.1, minibatch_size=2))
    checksum, tensors, before = module.model.base_checksum(), base(module), weights(module)
    optimizer = module.optimizer()
    for epoch in range(3):
        update(module, roll(module, samples, epoch), REWARDS, optimizer)
    assert module.model.base_checksum() == checksum
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in base(module).items())
    assert_moved(before, weights(module))
    assert not any(p.grad is not None for p in module.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    "inexact",
    [{"dtype": "bfloat16"}, pytest.param({"dtype": "float32", "quantization": "int8"}, marks=pytest.mark.int8)],
)
def test_where_decoding_rounds_otherwise_the_old_logprobs_are_computed_as_in_training(
    llm_folder: Path, samples: list[SampleText], inexact: dict[str, str]
) -> None:
    """Or the ratio of the first step would not be 1."""
    options = LLMOptions(path=str(llm_folder), lora_r=4, adapter_scope="response", **inexact)
    module = Policy(options, prompts=SHORT, rollout=RolloutOptions(max_new_tokens=6))
    module.build(NOUNS)
    stir_adapter(module.model)
    rollout = roll(module, samples)
    rollout.logprobs = rollout.logprobs - 1  # far more than any rounding
    assert update(module, rollout, REWARDS)["ratio_first"] == pytest.approx(1, abs=0.02)


def test_what_is_trained_is_float32_and_of_adapter_and_critic(llm_folder: Path) -> None:
    module = Policy(LLMOptions(path=str(llm_folder), dtype="bfloat16", lora_r=4), prompts=SHORT)
    module.build(NOUNS)
    assert {p.dtype for p in module.update.trained} == {torch.float32}
    assert {p.dtype for p in base(module).values()} == {torch.bfloat16}
    names = set(weights(module))
    assert all("lora_" in name or name.startswith("value_head.") for name in names)
    assert any("lora_" in name for name in names)
    assert any(name.startswith("value_head.") for name in names)


def test_adapter_and_critic_have_a_learning_rate_each(build: Build, samples: list[SampleText]) -> None:
    """With a rate of 0, what it is of stays as it is."""
    for still, options in (("lora_", {"lr": 0.0}), ("value_head.", {"critic_lr": 0.0})):
        module = build(ppo=PPOOptions(**{"lr": 1e-3, "critic_lr": 1e-3, "minibatch_size": 4} | options))
        before = weights(module)
        update(module, roll(module, samples), REWARDS)
        moved = {name for name, weight in weights(module).items() if not torch.equal(weight, before[name])}
        assert moved
        assert not any(still in name for name in moved)


def test_a_critic_that_reads_the_label_tells_rows_with_equal_states_apart(
    build: Build, samples: list[SampleText]
) -> None:
    """All rows are the same prompt and response; the reward is the label (0 or 1 in turn)."""
    values = {}
    for reads in (False, True):
        ppo = PPOOptions(lr=0.0, critic_lr=1e-2, critic_label=reads, epochs=40, value_clip=10.0, minibatch_size=4)
        module = build(ppo=ppo, kl=KLOptions(beta=0.0), rollout=RolloutOptions(max_new_tokens=1))
        rollout = roll(module, samples[:1]).select(torch.zeros(4, dtype=torch.long))
        update(module, rollout, [0.0, 1.0, 0.0, 1.0])
        labels = torch.tensor([0.0, 1, 0, 1])
        values[reads] = module.update.trajectory(rollout, labels, labels).values[:, 0]
    assert values[False].tolist() == pytest.approx([0.5] * 4, abs=0.15)
    assert values[True].tolist() == pytest.approx([0, 1, 0, 1], abs=0.15)


def test_the_gradient_with_a_frozen_prompt_is_that_of_a_plain_forward(build: Build, samples: list[SampleText]) -> None:
    """Adapter on response tokens only: against one forward of the whole sequence, adapter muted on the prompt."""
    module = build(scope="response")
    rollout = cut(roll(module, samples), [6, 1, 3, 2, 5])
    factors = torch.randn(rollout.response_ids.shape, generator=torch.Generator().manual_seed(0))
    policy = score_responses(module.model, rollout, adapter=True, temperature=1.0).logprobs
    parameters = [p for p in module.model.parameters() if p.requires_grad]
    ours = torch.autograd.grad((policy * factors * rollout.response_mask).sum(), parameters)
    total = torch.zeros(())
    for row in range(len(samples)):
        prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        response = rollout.response_ids[row][rollout.response_mask[row]]

        def mute(layer: LoraLinear, inputs: tuple[Tensor], output: Tensor, start: int = len(prompt) - 1) -> Tensor:
            return torch.cat([layer.base_layer(inputs[0][:, :start]), output[:, start:]], 1)

        handles = [m.register_forward_hook(mute) for m in module.modules() if isinstance(m, LoraLinear)]
        logits = module.model.causal(input_ids=torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        for handle in handles:
            handle.remove()
        logprobs = logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
        total = total + (logprobs * factors[row, : len(response)]).sum()
    for mine, plain in zip(ours, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-4, rtol=1e-3)


@pytest.mark.cli
@pytest.mark.parametrize(("scope", "advantage"), [("all", "gae"), ("response", "gae"), ("response", "batch")])
def test_a_rewarded_token_grows_likely(build: Build, samples: list[SampleText], scope: str, advantage: str) -> None:
    """A bandit: reward 1 if the first token is among the lower half of the vocabulary."""
    module = build(
        stir=False,
        scope=scope,
        rollout=RolloutOptions(max_new_tokens=1),
        ppo=PPOOptions(lr=0.02, minibatch_size=10, advantage=advantage),
        kl=KLOptions(beta=0.0),
    )
    half, batch, optimizer = module.model.vocab_size // 2, samples * 4, module.optimizer()

    def probability() -> float:
        rollout = roll(module, samples)
        with torch.no_grad():
            hidden = score_responses(module.model, rollout, True, 1.0).hidden[:, 0]
            return float(module.model.logits(hidden).softmax(-1)[:, :half].sum(-1).mean())

    before = probability()
    for step in range(25):
        rollout = roll(module, batch, epoch=step)
        rewards = (rollout.response_ids[:, 0] < half).float()
        update(module, rollout, module.normaliser(rewards, "lc")[0], optimizer)
    assert before < 0.7
    assert probability() > before + 0.15


def test_the_advantage_of_a_group_is_over_its_own_mean(
    build: Build, samples: list[SampleText], seen_advantages: list[Tensor]
) -> None:
    """Two prompts, two responses each: 1 and 0 about 0.5, twice 0.25 about itself."""
    module = build(
        rollout=RolloutOptions(max_new_tokens=6, group_size=2),
        ppo=PPOOptions(lr=1e-3, advantage="group"),
        kl=KLOptions(beta=0.0),
    )
    update(module, cut(roll(module, samples[:2]), [3, 1, 2, 2]), [1.0, 0.0, 0.25, 0.25])
    expected = torch.tensor([[0.5, 0.5, 0.5], [-0.5, 0, 0], [0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(seen_advantages[0], expected)


def test_without_a_critic_advantages_are_the_returns_to_go(
    build: Build, samples: list[SampleText], seen_advantages: list[Tensor]
) -> None:
    """Reward 1 and gamma 0.5 over three tokens: 0.25, 0.5, 1; the critic is not asked and does not move."""
    module = build(
        rollout=RolloutOptions(max_new_tokens=6),
        ppo=PPOOptions(lr=1e-3, advantage="batch", gamma=0.5),
        kl=KLOptions(beta=0.0),
    )
    before = weights(module)
    stats = update(module, cut(roll(module, samples[:2]), [3, 1]), [1.0, -2.0])
    torch.testing.assert_close(seen_advantages[0], torch.tensor([[0.25, 0.5, 1], [-2, 0, 0]]))
    assert "value_loss" not in stats
    assert all(torch.equal(before[name], w) for name, w in weights(module).items() if name.startswith("value_head"))


def test_a_truncated_response_is_kept_penalised_or_left_out(
    build: Build, samples: list[SampleText], seen_advantages: list[Tensor]
) -> None:
    """Rows 1 and 3 were cut. Delta is 2, so a penalised reward of 1 is -1."""
    rewards = torch.tensor([1.0, 1.0, -1.0, -1.0])

    def run(mode: str, given: Tensor, rows: list[int] | None = None) -> dict[str, Tensor]:
        module = build(
            rollout=RolloutOptions(max_new_tokens=6, truncated=mode),
            ppo=PPOOptions(lr=1e-3, epochs=1),
            kl=KLOptions(beta=0.0),
            reward=RewardOptions(delta=2.0),
        )
        rollout = cut(roll(module, samples[:4]), [3, 6, 2, 6])
        rollout.truncated = torch.tensor([False, True, False, True])
        if rows is not None:
            rollout, given = rollout.select(torch.tensor(rows)), given[rows]
        assert update(module, rollout, given)["truncated"] == (0.5 if rows is None else 0)
        return weights(module)

    kept, penalised, masked = (run(mode, rewards) for mode in ("keep", "penalise", "mask"))
    last = [2, 5, 1, 5]
    kept_rewards, penalised_rewards = ([float(a[i, t]) for i, t in enumerate(last)] for a in seen_advantages[:2])
    assert kept_rewards == pytest.approx([1, 1, -1, -1])
    assert penalised_rewards == pytest.approx([1, -1, -1, -3])
    assert_moved(kept, penalised)
    assert_moved(kept, masked)
    # left out means: as if those rows were not there, whatever they earned
    assert_same(masked, run("mask", torch.tensor([1.0, 50.0, -1.0, 7.0])), atol=0)
    assert_same(masked, run("keep", rewards, rows=[0, 2]))


def test_a_batch_of_truncated_responses_only_changes_nothing_when_they_are_left_out(
    build: Build, samples: list[SampleText]
) -> None:
    module = build(rollout=RolloutOptions(max_new_tokens=3, truncated="mask"))
    rollout = roll(module, samples)
    rollout.truncated = torch.ones(5, dtype=torch.bool)
    before = weights(module)
    stats = update(module, rollout, REWARDS)
    assert_same(weights(module), before, atol=0)
    assert all(math.isfinite(value) for value in stats.values())


def test_no_reward_and_no_penalty_change_nothing(build: Build, samples: list[SampleText]) -> None:
    module = build(kl=KLOptions(beta=0.0))
    before = weights(module)
    update(module, roll(module, samples), [0.0] * 5)
    assert_same(weights(module), before, atol=0)


def test_the_entropy_bonus_raises_the_entropy(build: Build, samples: list[SampleText]) -> None:
    module = build(ppo=PPOOptions(lr=0.01, entropy_coef=1.0), kl=KLOptions(beta=0.0))
    fixed, optimizer = roll(module, samples), module.optimizer()

    def entropy() -> float:
        with torch.no_grad():
            scores = score_responses(module.model, fixed, True, 1.0, with_entropy=True)
        return float(scores.entropy[fixed.response_mask].mean())

    before = entropy()
    for epoch in range(5):
        update(module, roll(module, samples, epoch), [0.0] * 5, optimizer)
    assert entropy() > before + 0.05


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_in_the_loss_pulls_towards_the_base(build: Build, samples: list[SampleText], estimator: str) -> None:
    module = build(
        scope="response",
        rollout=RolloutOptions(max_new_tokens=1),
        ppo=PPOOptions(lr=0.02, minibatch_size=10, advantage="batch"),
        kl=KLOptions(beta=1.0, where="loss", estimator=estimator),
    )
    fixed, optimizer = roll(module, samples), module.optimizer()
    before = kl_of(module, fixed)
    for epoch in range(10):
        update(module, roll(module, samples * 4, epoch), [0.0] * 20, optimizer)
    assert kl_of(module, fixed) < 0.8 * before


def test_the_kl_in_the_reward_is_taken_off_each_token_and_in_the_loss_off_none(
    build: Build, samples: list[SampleText], seen_advantages: list[Tensor]
) -> None:
    options = PPOOptions(advantage="batch")
    module = build(ppo=options, kl=KLOptions(beta=0.5))
    rollout = cut(roll(module, samples[:2]), [3, 1])
    with torch.no_grad():
        reference = score_responses(module.model, rollout, False, 1.0).logprobs
    ratio = ((rollout.logprobs - reference) * rollout.response_mask).tolist()
    stats = update(module, rollout, [1.0, -1.0])
    a, b, c = ratio[0]
    expected = [[1 - (a + b + c) / 2, 1 - (b + c) / 2, 1 - c / 2], [-1 - ratio[1][0] / 2, 0, 0]]
    torch.testing.assert_close(seen_advantages[0], torch.tensor(expected), atol=1e-4, rtol=0)
    assert stats["kl"] == pytest.approx((a + b + c + ratio[1][0]) / 2, abs=1e-4)  # of a response
    assert stats["kl_per_token"] == pytest.approx((a + b + c + ratio[1][0]) / 4, abs=1e-4)
    update(build(ppo=options, kl=KLOptions(beta=0.5, where="loss", estimator="k3")), rollout, [1.0, -1.0])
    torch.testing.assert_close(seen_advantages[1], torch.tensor([[1.0, 1, 1], [-1, 0, 0]]))


def test_beta_adapts_and_is_kept_in_checkpoints(build: Build, samples: list[SampleText]) -> None:
    module = build(kl=KLOptions(beta=0.1, target=1e-6, horizon=20.0))
    stats = update(module, roll(module, samples), REWARDS)
    assert stats["kl"] > 1
    assert stats["beta"] == 0.1
    assert module.update.beta == pytest.approx(0.101)
    other = build(kl=KLOptions(beta=0.1, target=1e-6))
    other.load_extra_state(module.extra_state())
    assert other.update.beta == module.update.beta
    with pytest.raises(UserError, match=r"the chat template of .* and the run was trained with '<think>'"):
        other.load_extra_state(module.extra_state() | {"chat": "<think>"})


def test_the_running_norm_is_over_all_rewards_so_far(build: Build, tmp_path: Path) -> None:
    module = build(reward=RewardOptions(norm="running", delta=100.0))
    batches = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
    for i, batch in enumerate(batches):
        if i == 2:  # a killed run goes on
            torch.save(module.extra_state(), tmp_path / "state.pt")
            module = build(reward=RewardOptions(norm="running", delta=100.0))
            module.load_extra_state(torch.load(tmp_path / "state.pt", weights_only=True))
        values = module.normaliser(batch, "lc")[0]
        so_far = batches[: i + 1].flatten()
        restored = values * so_far.std(correction=0) + so_far.mean()
        torch.testing.assert_close(restored, batch, atol=1e-4, rtol=0)


def test_the_running_norm_keeps_each_components_own_statistics() -> None:
    """LC rewards of 0 and 1, IC rewards of 10 and 30: means 0.5 and 20, deviations 0.5 and 10."""
    module = Policy(reward=RewardOptions(norm="running", delta=5.0))
    for component, rewards in (("lc", [0.0, 1.0]), ("ic", [10.0, 30.0])):
        values, _ = module.normaliser(torch.tensor(rewards), component)
        torch.testing.assert_close(values, torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)


def global_rows(minibatches: list[list[Tensor]], rank: int, world: int, group: int) -> list[list[int]]:
    """Where a rank's rows stand in the whole rollout batch, whose prompts were dealt in turn."""
    rows = [[int(r) for micro in minibatch for r in micro] for minibatch in minibatches]
    return [[(r // group * world + rank) * group + r % group for r in minibatch] for minibatch in rows]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("prompts", [1, 7, 8])
@pytest.mark.parametrize("micro", [None, 1, 3])
def test_minibatches_are_the_same_for_any_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch, group: int, prompts: int, micro: int | None
) -> None:
    total = prompts * group
    lengths = torch.randint(1, 9, (total,), generator=torch.Generator().manual_seed(0))
    sampling, ppo = RolloutOptions(group_size=group), PPOOptions(minibatch_size=4, micro_batch_size=micro)
    model: Any = SimpleNamespace(device=torch.device("cpu"))
    ppo_update = PPOUpdate(model, nn.Identity(), ppo, KLOptions(), sampling, delta=1.0)

    def minibatches(rank: int, world: int) -> list[list[Tensor]]:
        monkeypatch.setattr(module_under_test, "rank", lambda: rank)
        monkeypatch.setattr(module_under_test, "world_size", lambda: world)
        monkeypatch.setattr(module_under_test, "all_sum", lambda x: torch.tensor(total))
        mine = len(range(rank, prompts, world)) * group
        return ppo_update.minibatches(lengths[:mine], torch.Generator().manual_seed(5))

    alone = minibatches(0, 1)
    whole = [set(rows) for rows in global_rows(alone, 0, 1, group)]
    assert sorted(row for rows in global_rows(alone, 0, 1, group) for row in rows) == list(range(total))
    assert Policy(rollout=sampling, ppo=ppo).steps(prompts) == len(alone) * ppo.epochs
    for minibatch in alone:
        assert lengths[torch.cat(minibatch)].diff().ge(0).all()  # micro-batches of like lengths
    for world in (2, 3):
        parts = [minibatches(rank, world) for rank in range(world)]
        placed = [global_rows(part, rank, world, group) for rank, part in enumerate(parts)]
        for i, rows in enumerate(whole):
            together = [row for part in placed for row in part[i]]
            assert sorted(together) == sorted(rows)  # the same rows, each once
            assert len({len(part[i]) for part in parts}) == 1  # as many passes on each rank
        assert all(len(m) <= micro for part in parts for minibatch in part for m in minibatch if micro)


def test_an_empty_micro_batch_adds_nothing(
    build: Build, samples: list[SampleText], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank without rows in a minibatch still makes its passes, since others wait for it."""
    results = []
    for idle in (False, True):
        module = build()
        real = module.update.minibatches

        def more(lengths: Tensor, generator: torch.Generator, real: Any = real) -> list[list[Tensor]]:
            return [[*minibatch, minibatch[0][:0]] for minibatch in real(lengths, generator)]

        if idle:
            monkeypatch.setattr(module.update, "minibatches", more)
        stats = update(module, roll(module, samples), REWARDS)
        results.append((weights(module), stats))
    assert_same(results[0][0], results[1][0], atol=1e-6)
    assert results[1][1] == pytest.approx(results[0][1], abs=1e-5)


def test_a_gradient_that_is_no_number_stops_before_the_step(build: Build, samples: list[SampleText]) -> None:
    module = build()
    before = weights(module)
    rewards = [1.0, math.nan, 0.0, -1.0, math.inf]
    with pytest.raises(
        BadRunError, match=r'in 2 of 5 rows \(sample 1 "text 1", sample 4 "text 4"\)\. Lower model\.explainer\.ppo\.lr'
    ):
        update(module, roll(module, samples), rewards)
    assert_same(weights(module), before, atol=0)


def test_a_row_that_the_policy_has_no_number_for_is_named_in_mid_update(
    build: Build, samples: list[SampleText], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 3 goes bad once there is a gradient: in the minibatch that holds it, at whatever place."""
    module = build(ppo=PPOOptions(lr=1e-3, minibatch_size=2, micro_batch_size=1))
    rollout = roll(module, samples)
    real = module_under_test.score_responses
    marked = rollout.response_ids[3].clone()

    def spoil(model: Any, part: Rollout, *args: Any, **options: Any) -> Any:
        scores = real(model, part, *args, **options)
        mine = (part.response_ids == marked[: part.response_ids.shape[1]]).all(1)
        if torch.is_grad_enabled():
            scores = scores._replace(logprobs=scores.logprobs + torch.where(mine, math.nan, 0.0)[:, None])
        return scores

    monkeypatch.setattr(module_under_test, "score_responses", spoil)
    with pytest.raises(BadRunError, match=r'gradient norm is nan in 1 of 5 rows \(sample 3 "text 3"\)'):
        update(module, rollout, REWARDS)
    assert all(bool(weight.isfinite().all()) for weight in weights(module).values())


def test_where_there_is_nothing_to_learn(build: Build, samples: list[SampleText]) -> None:
    module = build(stir=False)
    rollout, labels = roll(module, samples[:4]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    rollout.truncated = torch.tensor([True, False, False, True])
    same, by_label, in_pairs = torch.full((4,), 0.5), 0.2 + 0.6 * labels, torch.tensor([0.8, 0.8, 0.2, 0.2])

    def nothing(*components: Tensor, baseline: Baseline = "batch", **options: Any) -> bool:
        normaliser, size = Policy(**options).normaliser, options.get("rollout", RolloutOptions()).group_size
        gains = [subtract_baseline(r, baseline, labels=labels, group_size=size, reference=by_label) for r in components]
        return normaliser.nothing_to_learn([(gain, baseline) for gain in gains], labels, rollout)

    pairs = RolloutOptions(group_size=2)
    assert nothing(same)
    assert nothing(same, same)
    assert not nothing(same, in_pairs)
    assert not nothing(by_label)
    assert nothing(by_label, baseline="label")
    assert nothing(by_label + 0.1, baseline="reference")
    assert not nothing(same, baseline="reference")
    assert nothing(in_pairs, rollout=pairs, baseline="prompt")
    assert not nothing(by_label, rollout=pairs, baseline="prompt")
    assert nothing(same, reward=RewardOptions(norm="none"))
    assert not nothing(by_label, reward=RewardOptions(norm="none"))
    assert not nothing(in_pairs, rollout=pairs)
    assert nothing(in_pairs, rollout=pairs, reward=RewardOptions(norm="group"))
    assert nothing(in_pairs, rollout=pairs, ppo=PPOOptions(advantage="group"))
    assert not nothing(same, rollout=RolloutOptions(truncated="penalise"))  # the cut ones earn less
    masked, two = RolloutOptions(truncated="mask"), torch.tensor([0.9, 0.5, 0.5, 0.1])
    assert not nothing(two)
    assert nothing(two, rollout=masked)  # the cut ones are not learnt from
    rollout.truncated = torch.ones(4, dtype=torch.bool)
    assert nothing(by_label, rollout=masked)


def test_each_prompt_is_answered_group_times_while_training_and_once_greedily(
    build: Build, samples: list[SampleText]
) -> None:
    module = build(rollout=RolloutOptions(max_new_tokens=4, group_size=3))
    sampled = roll(module, samples)
    assert len(sampled) == 15
    assert torch.equal(sampled.prompt_ids[0], sampled.prompt_ids[2])
    greedy, texts = module.explain(samples)
    assert len(greedy) == len(texts) == 5
    again, _ = module.explain(samples[::-1])
    assert torch.equal(again.response_ids.flip(0), greedy.response_ids)


def test_building_twice_keeps_the_weights(build: Build) -> None:
    module = build()
    before = weights(module)
    module.build(NOUNS)
    assert_same(weights(module), before, atol=0)
