"""How much of a reward does the sentence decide, and how much of the rest does each baseline remove?

    python -m tools.bench.noise --config configs/quickstart.yaml --run runs/quickstart [OPTIONS OF THE RUN]

Needs a finished run of ExpCTR. Training rows get several explanations each, by the untrained and by the trained model,
and the LC and the IC reward. The reward's variance within a row is what PPO learns from; what differs between rows is
noise. The table has the first as a share of the variance that each baseline leaves. The last line is JSON.
"""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from expctr.rl.normalise import subtract_baseline
from expctr.rl.rewards import ICAlignment, LCAlignment, Scorers, reference_rows
from expctr.run_folder import checkpoints
from tools.runs import expctr, script, start

ROWS, RESPONSES, AT_A_TIME = 256, 8, 32
"""Training rows, responses to each, and rows per rollout."""


class Measure(L.Callback):
    """After a validation, writes the rewards of some training rows to `noise.pt` in the run's folder."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        models, table = pl_module.models, pl_module.data.table("train")
        rewards = [LCAlignment(baseline="reference"), ICAlignment(delta="signed", baseline="reference")]
        for reward in rewards:
            reward.attach(Scorers(models.policy.lc_scorer, models.ctr, models.encoder, models.untrained_texts))
        rows = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:ROWS]
        found: dict[str, list[Tensor]] = {"label": []}
        for part in rows.split(AT_A_TIME):
            batch = table.batch(part)
            many = batch.repeat(RESPONSES)
            found["label"].append(batch.label)
            for who, adapter in (("untrained", False), ("trained", True)):
                noise = models.policy.noise(models.seed, 10**6, 0, batch.sample.tolist(), RESPONSES)
                _, texts = models.policy.explain(batch.texts, noise, adapter)
                for reward in rewards:
                    scores = reward.score(many, texts).view(-1, RESPONSES)
                    reference = reference_rows(reward, many).view(-1, RESPONSES)[:, 0]
                    found.setdefault(f"{reward.name}, {who}", []).append(scores)
                    found.setdefault(f"{reward.name}, {who}, reference", []).append(reference)
        path = Path(trainer.default_root_dir) / "noise.pt"
        torch.save({name: torch.cat(parts) for name, parts in found.items()}, path)


def shares(rewards: Tensor, labels: Tensor, reference: Tensor) -> dict[str, float]:
    """Return the variance within a row, as a share of the variance that each baseline leaves.

    Args:
        rewards: of several responses to each prompt, `[prompts, responses]`.
        labels: `[prompts]`.
        reference: of the reference explanation, `[prompts]`.
    """
    within, found = rewards.var(1).mean(), {}
    for baseline in ("batch", "label", "reference"):
        gains = [subtract_baseline(r, baseline, labels=labels, reference=reference) for r in rewards.unbind(1)]
        found[baseline] = within / torch.stack([gain.var() for gain in gains]).mean()
    for size in (2, 4, 8):
        groups = rewards[:, : rewards.shape[1] // size * size].reshape(-1)
        found[f"prompt, {size} responses"] = within / subtract_baseline(groups, "prompt", group_size=size).var()
    return {name: float(share) for name, share in found.items()}


def main() -> None:
    parser = script(__doc__)
    parser.add_argument("--config", nargs="+", default=["configs/quickstart.yaml"])
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="folder of a finished run")
    parser.add_argument("--out", type=Path, default=Path("runs/noise"))
    args, options = parser.parse_known_args()
    out = args.out.resolve()
    if not (out / "noise.pt").exists():
        *_, last = checkpoints(args.run.resolve() / "checkpoints")
        line = [*(f"--config={config}" for config in args.config), *options, f"--ckpt_path={last}"]
        expctr("validate", out, *line, "--trainer.limit_val_batches=1", f"--trainer.callbacks+={__spec__.name}.Measure")
    kept = torch.load(out / "noise.pt", weights_only=True)
    names = [name for name in kept if name != "label" and not name.endswith("reference")]
    by_name = {name: shares(kept[name], kept["label"], kept[f"{name}, reference"]) for name in names}
    shown = Table("reward, who writes", "deviation", "within a row", *by_name[names[0]])
    for name in names:
        deviations = [float(kept[name].std()), float(kept[name].var(1).mean().sqrt())]
        shown.add_row(name, *(f"{x:.4f}" for x in deviations), *(f"{share:.3f}" for share in by_name[name].values()))
    Console().print(shown)
    print(json.dumps({name: {key: round(x, 4) for key, x in row.items()} for name, row in by_name.items()}))


if __name__ == "__main__":
    start(main)
