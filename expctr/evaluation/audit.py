"""Audit of explanations: do reasons or verdicts help, do they follow the prompt, and do they reveal the label?

- **Ablations**: AUC and LogLoss of ExpCTR-Aug on replaced sentences. Its gain over no sentence splits into the part of
  the verdict (sentences permuted among rows with the same verdict) and the part of the reason (what that permutation
  loses).
- **Agreement**: how often s_u and s_r are on the same side of 0.5.
- **Counterfactuals**: the prompt of a row is changed and a new sentence is written. The CTR model reads the same ids as
  before, so only the sentence moves s_r. The expected changes are: with liked and disliked titles swapped, s_u crosses
  0.5; without a liked title, s_u does not rise; without a disliked title, it does not fall; with another target, the
  sentence names the new target and no longer names the old one.
- **Leakage**: how well a bag of words predicts the label, cross-validated over users.
"""

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expctr.data.batches import Nouns, SampleText
from expctr.metrics import UNDEFINED, bootstrap, ctr_metrics, estimate, mean_estimates
from expctr.modules.staged import StagedModule
from expctr.seeding import seed_of
from expctr.sentences.verdicts import polarity, title_pattern, without_verdicts
from expctr.systems import ABLATIONS, AUG, Estimate

SHUFFLES = 5
"""Number of random permutations that a metric is averaged over."""
UNMOVED = 1e-4
"""Differences of s_u up to this count as rounding."""
FOLDS = 5

Estimates = dict[str, Estimate]


# --- ablations


def alternatives(
    texts: Sequence[str], prompts: Sequence[SampleText], nouns: Nouns, seed: int
) -> dict[str, list[list[str]]]:
    """The sentences that replace the real ones, by their keys in `ABLATIONS`; one or several lists of texts each.

    `prompts` holds the titles in each sentence's prompt.
    """
    titles = [[row.target, *row.liked, *row.disliked] for row in prompts]
    verdicts = [polarity(*row) for row in zip(texts, titles, strict=True)]
    template = {1: "enjoy", -1: "dislike"}
    only = [f"The {nouns.person} will likely {template[v]} this {nouns.item}." if v else "" for v in verdicts]
    return {
        "no verdict words": [[without_verdicts(*row) for row in zip(texts, titles, strict=True)]],
        "verdict only": [only],
        "shuffled within verdict": [permuted(texts, verdicts, seed_of(seed, draw)) for draw in range(SHUFFLES)],
        "shuffled": [permuted(texts, [0] * len(texts), seed_of(seed, draw)) for draw in range(SHUFFLES)],
    }


def permuted(texts: Sequence[str], groups: Sequence[int], seed: int) -> list[str]:
    """Give each row the text of another row of its group, or its own where the row is alone in its group."""
    generator, found = torch.Generator().manual_seed(seed), list(texts)
    for group in sorted(set(groups)):
        rows = [i for i, own in enumerate(groups) if own == group]
        circle = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
        for to, source in zip(circle, circle[1:] + circle[:1], strict=True):
            found[to] = texts[source]
    return found


def ablations(
    scores: Mapping[str, Sequence[Sequence[float]]], labels: Sequence[float], users: Tensor
) -> tuple[dict[str, Estimates], Estimates]:
    """AUC and LogLoss with each kind of sentences, and the parts of the gain in AUC.

    Args:
        scores: by the keys of `ABLATIONS`, one or several lists of s_r, including `real`, `shuffled within verdict` and
            `none`.
        labels: 0 or 1.
        users: the user of each row, integers `[rows]`.

    Returns:
        The metrics by key, and the gains in AUC on the same resamples: `total`, of real sentences over none; `verdict`,
        of sentences with the same verdict over none; `reason`, of real sentences over those with the same verdict.
    """
    target, names = torch.tensor(labels, dtype=torch.float64), ("auc", "logloss")
    values, draws, metrics = {}, {}, {}
    for key, tables in scores.items():
        tensors = [torch.tensor(table, dtype=torch.float64) for table in tables]
        found = [ctr_metrics(tensor, target) for tensor in tensors]
        values[key] = {name: sum(f[name] for f in found) / len(found) for name in names}
        resampled = [bootstrap(tensor, target, users)[:, :2] for tensor in tensors]
        draws[key] = sum(resampled, torch.zeros(2)) / len(tensors)
        metrics[key] = {name: estimate(values[key][name], draws[key][:, i]) for i, name in enumerate(names)}
    same = "shuffled within verdict"
    gain = {
        part: estimate(values[a]["auc"] - values[b]["auc"], draws[a][:, 0] - draws[b][:, 0])
        for part, a, b in (("total", "real", "none"), ("verdict", same, "none"), ("reason", "real", same))
    }
    return metrics, gain


def agreement(s_u: Sequence[float], s_r: Sequence[float], users: Tensor) -> dict[str, Any]:
    """How often both scores are on the same side of 0.5.

    Returns:
        `share`: of the rows; `chance`: the share expected of two independent scores with the same rates.
    """
    liked = [torch.tensor(scores, dtype=torch.float64) > 0.5 for scores in (s_u, s_r)]
    first, second = (float(side.double().mean()) for side in liked)
    share = mean_estimates({"share": (liked[0] == liked[1]).double()}, users)["share"]
    return {"share": share, "chance": first * second + (1 - first) * (1 - second)}


# --- counterfactuals


class Changed(NamedTuple):
    """A changed prompt."""

    kind: str
    row: int
    prompt: SampleText
    sign: int = 0
    """1 where a liked title was dropped, -1 where a disliked title was dropped, else 0."""


def changes(prompts: Sequence[SampleText], rows: Sequence[int]) -> list[Changed]:
    """The counterfactual prompts of the rows with these indices. Another target is taken from a following row."""
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
    module: StagedModule,
    columns: Mapping[str, Sequence[Any]],
    prompts: Sequence[SampleText],
    users: Tensor,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """How far changed prompts move s_u, s_r and the sentence: each row's changes are averaged, then the rows.

    Args:
        module: trained. All ranks call it.
        columns: `sample`, `text`, `s_u`, and `s_r` where the CTR model is trained.
        prompts: each row's titles as its prompt shows them.
        users: the user of each row, integers `[rows]`.
        count: number of rows, chosen at random with the seed.
        seed: of the choice.

    Returns:
        By kind: `rows`, the mean absolute changes of `s_u` and `s_r`, `text_changed` (share of words that changed),
        and `expected` (share of changes as expected).
    """
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed_of(seed))).tolist()
    changed = changes(prompts, sorted(order[:count]))
    explained = module.explain_prompts([columns["sample"][c.row] for c in changed], [c.prompt for c in changed])
    moved: dict[str, dict[int, list[dict[str, float]]]] = {}
    for change, after in zip(changed, explained, strict=True):
        row = change.row
        found = {name: abs(after[name] - columns[name][row]) for name in ("s_u", "s_r") if name in columns}
        found["text_changed"] = words_changed(columns["text"][row], after["text"])
        found["expected"] = float(as_expected(change, prompts[row], columns["s_u"][row], after["s_u"], after["text"]))
        moved.setdefault(change.kind, {}).setdefault(row, []).append(found)
    return {
        kind: {"rows": len(by_row), **mean_estimates(_row_means([*by_row.values()]), users[list(by_row)])}
        for kind, by_row in moved.items()
    }


def _row_means(rows: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Tensor]:
    """By name, the mean of each row's values, `[rows]`."""
    return {name: torch.tensor([sum(f[name] for f in found) / len(found) for found in rows]) for name in rows[0][0]}


def as_expected(change: Changed, prompt: SampleText, before: float, after: float, text: str) -> bool:
    """Whether a change of `prompt` has the effect that this module's docstring expects of its kind.

    `before` and `after` are s_u of the original and of the new sentence, whose words are `text`.
    """
    if change.kind == "swapped history":
        return (before > 0.5) != (after > 0.5)
    if change.kind == "one title dropped":
        return change.sign * (after - before) <= UNMOVED
    new, old = (bool(title and title_pattern(title).search(text)) for title in (change.prompt.target, prompt.target))
    return new and not old


def words_changed(before: str, after: str) -> float:
    """Share of words that differ: 1 minus difflib's ratio over words, 0 for the same sentence."""
    return 1 - SequenceMatcher(None, before.split(), after.split(), autojunk=False).ratio()


# --- leakage


def leakage(texts: Sequence[str], labels: Sequence[float], users: Tensor, seed: int = 0) -> Estimate:
    """AUC of a logistic regression on the bag of words of each text, for users that it was not trained on.

    Returns:
        NaN where either label has fewer than two users, or where the training texts of a fold have no words.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # its import takes a second
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    target = torch.tensor(labels, dtype=torch.float64)
    owners = [{u for u, y in zip(users.tolist(), labels, strict=True) if y == label} for label in (0, 1)]
    folds = min(FOLDS, *map(len, owners))
    if folds < 2:
        return UNDEFINED
    words = CountVectorizer(token_pattern=r"(?u)\w+", binary=True)
    analyzer = words.build_analyzer()
    scores = torch.full_like(target, math.nan)
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(texts, labels, users.tolist())
    for train, test in split:
        train_labels, train_texts = [labels[i] for i in train], [texts[i] for i in train]
        if len(set(train_labels)) < 2 or not any(map(analyzer, train_texts)):
            return UNDEFINED
        bag = words.fit(train_texts).transform(train_texts)
        probe = LogisticRegression(max_iter=1000).fit(bag, train_labels)
        predicted = probe.predict_proba(words.transform([texts[i] for i in test]))[:, 1]
        scores[torch.as_tensor(test)] = torch.as_tensor(predicted, dtype=torch.float64)
    return auc(scores, target, users)


def auc(scores: Tensor, labels: Tensor, users: Tensor) -> Estimate:
    """AUC with its interval; NaN where all labels are the same."""
    if len(labels.unique()) < 2:
        return UNDEFINED
    return estimate(ctr_metrics(scores, labels)["auc"], bootstrap(scores, labels, users)[:, 0])


# --- what is printed


def lines(audit: Mapping[str, Any]) -> list[str]:
    """What `test` prints, one line each."""
    shown = []
    if gain := audit.get("gain"):
        for name in ("no verdict words", "verdict only", "shuffled within verdict"):
            found = audit["ablations"][name]["auc"].format()
            shown.append(f"- AUC of {AUG.name} on other sentences ({ABLATIONS[name].lower()}): {found}")
        total, verdict, reason = (gain[name].format(sign="+") for name in ("total", "verdict", "reason"))
        shown.append(
            f"- Explanations change the AUC of {AUG.name} by {total}: the verdict by {verdict}, the reason by {reason}"
        )
    if agreed := audit.get("agreement"):
        share, chance = agreed["share"].value, agreed["chance"]
        shown.append(f"- s_u and s_r are on the same side of 0.5 in {share:.1%} of rows; by chance in {chance:.1%}")
    for kind, found in audit.get("counterfactuals", {}).items():
        moves = ", ".join(f"{name} by {found[name].value:.4f}" for name in ("s_u", "s_r") if name in found)
        shown.append(
            f"- {kind.capitalize()} ({found['rows']} rows): changes {moves}, and {found['text_changed'].value:.1%} of "
            f"the words; {found['expected'].value:.1%} of the changes are as expected"
        )
    if "leakage" in audit:
        shown.append(f"- The label predicted from the words alone: AUC {audit['leakage']['auc'].format()}")
    return shown
