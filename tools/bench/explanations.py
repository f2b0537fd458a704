"""The cost of several explanations per row (`evaluation.samples`) against one greedy explanation.

    python -m tools.bench.explanations [--samples K] [--rows N] [--times N]    # fetches MovieLens-100K into .data

The shipped nano model, untrained, explains rows of MovieLens-100K with the quickstart's options: one explanation per
row and several, in turns, on one thread. A batch has as many explanations as data.eval_batch_size says. The first round
does not count. The last line is JSON: for the writing alone (`explain`) and with the LC scores (`explain_and_score`),
the seconds of several explanations divided by those of one; and how many tokens each way reads and writes.
"""

import json
import time
from statistics import median

import torch
import yaml

from expctr.data.batches import SampleText
from expctr.data.datamodules import MovieLensDataModule
from expctr.llm.loading import LLMOptions
from expctr.llm.rollout import RolloutOptions
from expctr.llm.yes_no import LCOptions
from expctr.rl.policy import Policy
from tools.get_movielens import get_movielens
from tools.runs import ROOT, script

RATINGS = ROOT / ".data/ml-100k"


def measure(policy: Policy, rows: list[SampleText], count: int, size: int) -> tuple[dict[str, float], dict[str, int]]:
    """Return the seconds of `count` explanations per row, and the tokens that they take.

    `size` is the number of explanations per batch.
    """
    seconds, tokens = (
        dict.fromkeys(("explain", "explain_and_score"), 0.0),
        dict.fromkeys(("prompt", "written", "lc"), 0),
    )
    step = max(1, size // count)
    for start in range(0, len(rows), step):
        batch = rows[start : start + step]
        repeated = [row for row in batch for _ in range(count)]
        began = time.perf_counter()
        rollout, texts = policy.explain(batch, policy.evaluation_noise(0, batch, count), share=True)
        explained = time.perf_counter()
        policy.lc_scorer.scores(repeated, texts)
        seconds["explain"] += explained - began
        seconds["explain_and_score"] += time.perf_counter() - began
        tokens["prompt"] += sum(map(len, policy.prompts.explanation(batch)))
        tokens["written"] += int(rollout.response_mask.sum())
        tokens["lc"] += sum(map(len, {*map(tuple, policy.prompts.lc(repeated, texts, policy.lc.include_title))}))
    return seconds, tokens


def main() -> None:
    """Measure in turns; print the line of JSON."""
    parser = script(__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    get_movielens(RATINGS)
    config = yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
    explainer, size = config["model"]["init_args"]["explainer"], config["data"]["init_args"]["eval_batch_size"]
    data = MovieLensDataModule(str(RATINGS))
    data.setup()
    policy = Policy(
        LLMOptions(**explainer["llm"]), rollout=RolloutOptions(**explainer["rollout"]), lc=LCOptions(**explainer["lc"])
    )
    policy.build(data.nouns)
    rows = data.table("train").texts[: options.rows]
    rounds = [[measure(policy, rows, count, size) for count in (1, options.samples)] for _ in range(options.times + 1)]
    ratios = {name: median(many[0][name] / one[0][name] for one, many in rounds[1:]) for name in rounds[0][0][0]}
    seconds = [{name: median(turns[i][0][name] for turns in rounds[1:]) for name in ratios} for i in (0, 1)]
    print(json.dumps({**ratios, "seconds": seconds, "tokens": [tokens for _, tokens in rounds[0]]}))


if __name__ == "__main__":
    main()
