"""Does an explanation help by its reasons, or by its verdict? Does it follow what it was told, and give the label away?

- **Ablations**: AUC and LogLoss of ExpCTR-Aug, whose sentences are replaced. The gain over no sentence splits into the
  verdict's (sentences exchanged among rows of the same verdict) and the reason's (what that exchange loses).
- **Counterfactuals**: the prompt of a row is changed and the sentence written anew. The ids that the CTR model reads
  stay: what moves s_r is the sentence alone. As expected is: with liked and disliked swapped, s_u crosses one half;
  with a liked title dropped, s_u does not rise, with a disliked one, it does not fall; with another target, the
  sentence names that one and the old one no more.
- **Leakage**: how well a bag of words tells the label, cross-validated over users.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from expctr.data.batches import Nouns, SampleText
from expctr.evaluation.verdicts import polarity, title_pattern, without_verdicts
from expctr.metrics import UNDEFINED, Estimate, bootstrap, ctr_metrics, estimate, mean_estimates
from expctr.seeding import seed_of

SHUFFLES = 5
"""Exchanges of sentences, over which metrics are averaged."""
UNMOVED = 1e-4
"""Differences of s_u up to this are rounding."""
FOLDS = 5

Estimates = dict[str, Estimate]


class Reader(Protocol):
    """What the audit asks of a trained model: `ExpCTRModule`."""

    def score_texts(self, samples: Sequence[int], texts: Sequence[str]) -> list[float]:
        """s_r of test rows, by sample, with these explanations."""

    def explain_prompts(self, prompts: Sequence[SampleText]) -> tuple[list[str], list[float]]:
        """Explanations of prompts, and their s_u."""


# --- ablations


def alternatives(texts: Sequence[str], given: Sequence[SampleText], nouns: Nouns, seed: int) -> dict[str, list[Any]]:
    """The sentences in place of the real ones, by name; each a list of one or several tables of texts.

    Args:
        texts: the explanations.
        given: the titles of their prompts.
        nouns: what the template calls people and items.
        seed: of the exchanges.
    """
    titles = [[row.target, *row.liked, *row.disliked] for row in given]
    verdicts = [polarity(*row) for row in zip(texts, titles, strict=True)]
    template = {1: "enjoy", -1: "dislike"}
    only = [f"The {nouns.person} will likely {template[v]} this {nouns.item}." if v else "" for v in verdicts]
    within = [exchanged(texts, verdicts, seed_of(seed, draw)) for draw in range(SHUFFLES)]
    over_all = [exchanged(texts, [0] * len(texts), seed_of(seed, draw)) for draw in range(SHUFFLES)]
    bare = [without_verdicts(*row) for row in zip(texts, titles, strict=True)]
    return {
        "no verdict words": [bare],
        "verdict only": [only],
        "shuffled within verdict": within,
        "shuffled": over_all,
    }


def exchanged(texts: Sequence[str], groups: Sequence[int], seed: int) -> list[str]:
    """Each row's text from another row of its group; its own where it is alone."""
    generator, given = torch.Generator().manual_seed(seed), list(texts)
    for group in sorted(set(groups)):
        rows = [i for i, own in enumerate(groups) if own == group]
        circle = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
        for to, source in zip(circle, circle[1:] + circle[:1], strict=True):
            given[to] = texts[source]
    return given


def ablations(
    scores: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[float], users: Tensor
) -> tuple[dict[str, Estimates], Estimates]:
    """AUC and LogLoss with each kind of sentences, and how the gain in AUC splits.

    Args:
        scores: by name, one or several tables of s_r; `real`, `shuffled within verdict` and `none` among them.
        labels: 0 or 1.
        users: whose rows they are, integers `[rows]`.

    Returns:
        The metrics by name, and `total`, `verdict` and `reason`: the gain in AUC of real sentences over none, of
        sentences of the same verdict over none, and of real ones over those. Users are resampled alike for all.
    """
    target, values, draws = torch.tensor(labels, dtype=torch.float64), {}, {}
    for name, tables in scores.items():
        tensors = [torch.tensor(table, dtype=torch.float64) for table in tables]
        found = [ctr_metrics(tensor, target) for tensor in tensors]
        values[name] = {metric: sum(f[metric] for f in found) / len(found) for metric in ("auc", "logloss")}
        resampled = [bootstrap(tensor, target, users)[:, :2] for tensor in tensors]
        draws[name] = sum(resampled, torch.zeros(2)) / len(tensors)
    metrics = {
        name: {m: estimate(values[name][m], draws[name][:, i]) for i, m in enumerate(("auc", "logloss"))}
        for name in scores
    }
    pairs = {"total": ("real", "none"), "verdict": ("shuffled within verdict", "none")}
    pairs["reason"] = ("real", "shuffled within verdict")
    split = {
        name: estimate(values[a]["auc"] - values[b]["auc"], draws[a][:, 0] - draws[b][:, 0])
        for name, (a, b) in pairs.items()
    }
    return metrics, split


# --- counterfactuals


class Changed(NamedTuple):
    """A changed prompt."""

    kind: str
    row: int
    prompt: SampleText
    sign: int = 0
    """1 where a liked title was dropped, -1 where a disliked one."""


def changes(prompts: Sequence[SampleText], rows: Sequence[int]) -> list[Changed]:
    """The counterfactual prompts of some rows; another target is that of a following row.

    Args:
        prompts: of all rows.
        rows: whose prompts are changed.
    """
    made = []
    for row in rows:
        target, liked, disliked = prompts[row]
        if liked or disliked:
            made.append(Changed("swapped history", row, SampleText(target, disliked, liked)))
        for i in range(len(liked)):
            dropped = SampleText(target, liked[:i] + liked[i + 1 :], disliked)
            made.append(Changed("one title dropped", row, dropped, 1))
        for i in range(len(disliked)):
            dropped = SampleText(target, liked, disliked[:i] + disliked[i + 1 :])
            made.append(Changed("one title dropped", row, dropped, -1))
        others = (prompts[(row + step) % len(prompts)].target for step in range(1, len(prompts)))
        other = next((title for title in others if title not in (target, *liked, *disliked)), None)
        if other is not None:
            made.append(Changed("another target", row, SampleText(other, liked, disliked)))
    return made


def counterfactuals(
    reader: Reader,
    columns: Mapping[str, Sequence[Any]],
    prompts: Sequence[SampleText],
    users: Tensor,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """How far changed prompts move s_u, s_r and the sentence: means over rows, each row's changes averaged first.

    Args:
        reader: the trained model; asked on all ranks.
        columns: `sample`, `text`, `s_u`, and `s_r` where the CTR model is trained.
        prompts: each row's titles as its prompt shows them.
        users: whose rows they are, integers `[rows]`.
        count: rows that are looked at.
        seed: of the choice.

    Returns:
        By kind: `rows`, the mean absolute change of `s_u` and `s_r`, `text_changed` (share of words that changed),
        and `expected` (share that moved as expected).
    """
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed_of(seed))).tolist()
    changed = changes(prompts, sorted(order[:count]))
    texts, s_u = reader.explain_prompts([change.prompt for change in changed])
    s_r = reader.score_texts([columns["sample"][c.row] for c in changed], texts) if "s_r" in columns else []
    moved: dict[str, dict[int, list[dict[str, float]]]] = {}
    for i, change in enumerate(changed):
        row = change.row
        found = {"s_u": abs(s_u[i] - columns["s_u"][row])}
        if s_r:
            found["s_r"] = abs(s_r[i] - columns["s_r"][row])
        found["text_changed"] = words_changed(columns["text"][row], texts[i])
        found["expected"] = float(as_expected(change, prompts[row], columns["s_u"][row], s_u[i], texts[i]))
        moved.setdefault(change.kind, {}).setdefault(row, []).append(found)
    return {
        kind: {
            "rows": len(by_row),
            **mean_estimates(
                {
                    name: torch.tensor([sum(f[name] for f in found) / len(found) for found in by_row.values()])
                    for name in next(iter(by_row.values()))[0]
                },
                users[list(by_row)],
            ),
        }
        for kind, by_row in moved.items()
    }


def as_expected(change: Changed, prompt: SampleText, before: float, after: float, text: str) -> bool:
    """Whether a change did what the module's first lines expect of its kind.

    Args:
        change: what was changed.
        prompt: what it was changed from.
        before: s_u of the prompt's sentence.
        after: s_u of the new sentence.
        text: the new sentence.
    """
    if change.kind == "swapped history":
        return (before > 0.5) != (after > 0.5)
    if change.kind == "one title dropped":
        return change.sign * (after - before) <= UNMOVED
    new, old = (bool(title and title_pattern(title).search(text)) for title in (change.prompt.target, prompt.target))
    return new and not old


def words_changed(before: str, after: str) -> float:
    """Share of words that differ, of 0 for the same sentence to 1 (1 minus difflib's ratio over words)."""
    return 1 - SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()


# --- leakage


def leakage(texts: Sequence[str], labels: Sequence[float], users: Tensor, seed: int = 0) -> Estimate:
    """AUC of a logistic regression that reads the bag of words of each text, on users that it was not trained on.

    Args:
        texts: the explanations.
        labels: 0 or 1.
        users: whose rows they are, integers `[rows]`.
        seed: of the folds.

    Returns:
        nan where there are too few rows of either label, or a fold without words.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # a second to import
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    target = torch.tensor(labels, dtype=torch.float64)
    owners = [{u for u, y in zip(users.tolist(), labels, strict=True) if y == label} for label in (0, 1)]
    folds = min(FOLDS, *map(len, owners))
    words = CountVectorizer(token_pattern=r"(?u)\w+", binary=True)
    analyzer = words.build_analyzer()
    if folds < 2:
        return UNDEFINED
    scores = torch.full_like(target, math.nan)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(texts, labels, users.tolist())
    for train, test in split:
        held_in, read = [labels[i] for i in train], [texts[i] for i in train]
        if len(set(held_in)) < 2 or not any(map(analyzer, read)):
            return UNDEFINED
        bag = words.fit(read).transform(read)
        probe = LogisticRegression(max_iter=1000).fit(bag, held_in)
        held_out = probe.predict_proba(words.transform([texts[i] for i in test]))[:, 1]
        scores[torch.as_tensor(test)] = torch.as_tensor(held_out, dtype=torch.float64)
    return auc(scores, target, users)


def auc(scores: Tensor, labels: Tensor, users: Tensor) -> Estimate:
    """AUC with its interval; nan where all labels are the same."""
    if len(labels.unique()) < 2:
        return UNDEFINED
    return estimate(ctr_metrics(scores, labels)["auc"], bootstrap(scores, labels, users)[:, 0])


# --- what is printed


def lines(audit: Mapping[str, Any]) -> list[str]:
    """The short form."""
    shown = []
    if gain := audit.get("gain"):
        altered = ("no verdict words", "verdict only", "shuffled within verdict")
        shown += [f"- AUC of ExpCTR-Aug, {name}: {_show(audit['ablations'][name]['auc'])}" for name in altered]
        total, verdict, reason = (_show(gain[name], "+") for name in ("total", "verdict", "reason"))
        shown.append(f"- explanations move its AUC by {total}: the verdict {verdict}, the reason {reason}")
    for kind, found in audit.get("counterfactuals", {}).items():
        moves = ", ".join(f"{name} by {found[name].value:.3f}" for name in ("s_u", "s_r") if name in found)
        shown.append(
            f"- {kind} ({found['rows']} rows): moves {moves}, {found['text_changed'].value:.0%} of the words; "
            f"{found['expected'].value:.0%} as expected"
        )
    if "leakage" in audit:
        shown.append(f"- the label from the words alone: AUC {_show(audit['leakage']['auc'])}")
    return shown


def _show(found: Estimate, sign: str = "") -> str:
    if math.isnan(found.value):
        return "-"
    return f"{found.value:{sign}.4f} ({found.low:{sign}.3f}–{found.high:{sign}.3f})"
