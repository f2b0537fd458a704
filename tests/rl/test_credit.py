"""How far back the one reward at the end reaches: a verdict that is followed by 79 tokens which do not matter."""

import pytest
import torch
from torch import Tensor, nn

from expctr.llm.critic import ValueHead
from expctr.rl import losses
from expctr.rl.normalise import normalise

TOKENS, ROWS, BATCHES, LR = 80, 64, 25, 3e-3


def share_learnt(lam: float, seed: int = 0, critic_lr: float = 1e-4, critic_label: bool = False) -> float:
    """Probability of the right verdict after PPO with a critic; 0.5 before.

    A row is of one of two kinds, and its label agrees with the kind in 3 of 4 rows. The first token is the verdict; the
    reward is 1 if it agrees with the label. The other tokens are drawn from four. The critic sees kind, verdict and
    position, and the label if `critic_label`.
    """
    draw, mask = torch.Generator().manual_seed(seed), torch.ones(ROWS, TOKENS)
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))  # all tokens share its weights
    critic = ValueHead(16, width=32, seed=seed, reads_label=critic_label)
    states = torch.randn(2, 3, TOKENS, 16, generator=draw)
    groups = [{"params": policy.parameters(), "lr": LR}, {"params": critic.parameters(), "lr": critic_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    before = states[:, 2, 0]  # the state before the verdict does not hold it

    def right() -> Tensor:
        return policy(before)[:, :2].softmax(-1).diagonal().mean()

    def sample(logits: Tensor) -> Tensor:
        return (logits - torch.rand(logits.shape, generator=draw).log().neg().log()).argmax(-1)

    def logprobs(hidden: Tensor, tokens: Tensor) -> Tensor:
        logits = policy(hidden)
        first = logits[:, :1, :2].log_softmax(-1).gather(-1, tokens[:, :1, None])
        return torch.cat([first, logits[:, 1:].log_softmax(-1).gather(-1, tokens[:, 1:, None])], 1)[..., 0]

    for _ in range(BATCHES):
        kinds = torch.randint(2, (ROWS,), generator=draw)
        labels = torch.where(torch.rand(ROWS, generator=draw) < 0.75, kinds, 1 - kinds)
        told = labels.float()[:, None].expand(ROWS, TOKENS)
        with torch.no_grad():
            first = sample(policy(before)[kinds, :2])[:, None]
            hidden = torch.cat([before[kinds, None], states[kinds, first[:, 0], 1:]], 1)
            tokens = torch.cat([first, sample(policy(hidden[:, 1:]))], 1)
            old, values = logprobs(hidden, tokens), critic(hidden, told)
        rewards = normalise((first[:, 0] == labels).float())[0]
        advantages = losses.gae(losses.token_rewards(rewards, mask * 0, mask, 0.0), values, mask, 1.0, lam)
        returns, whitened = advantages + values, losses.whiten(advantages, mask)
        for _ in range(2):
            loss = losses.policy_loss(logprobs(hidden, tokens), old, whitened, mask, 0.2).loss
            loss = loss + 0.1 * losses.value_loss(critic(hidden, told), values, returns, mask, 0.2)
            optimizer.zero_grad()
            (loss / mask.sum()).backward()
            optimizer.step()
    return float(right().detach())


@pytest.mark.parametrize("seed", [0, 1])
def test_an_early_verdict_is_learnt_with_lambda_1_long_before_it_is_with_less(seed: int) -> None:
    learnt = share_learnt(1.0, seed)
    assert learnt > 0.8
    assert learnt > share_learnt(0.95, seed) + 0.15
