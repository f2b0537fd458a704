"""What a test says of its explanations: asks the models, then reads what they wrote (`quality`, `audit`)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl
import torch

from expctr.data.batches import SampleText
from expctr.evaluation import audit, quality
from expctr.evaluation.titles import TitleFinder
from expctr.evaluation.verdicts import polarity
from expctr.modules.expctr import ExpCTRModule


class Asked(NamedTuple):
    """What needed the models."""

    scores: dict[str, list[list[float]]]
    """s_r with each kind of sentences, one or several tables; empty before a CTR model is trained."""
    counterfactuals: dict[str, Any]


class Told(NamedTuple):
    """What there is to say of the explanations."""

    quality: dict[str, Any]
    audit: dict[str, Any]
    columns: dict[str, list[Any]]
    """For `test.parquet`."""
    notes: list[str]

    @property
    def schema(self) -> dict[str, Any]:
        """Types of columns whose values may all be empty."""
        lists = ("invented", "invented_untrained", "liked", "disliked")
        return dict.fromkeys(lists, pl.List(pl.String))


def ask(module: ExpCTRModule, given: Sequence[SampleText], counterfactual_rows: int) -> Asked:
    """Ask the models what the audit needs; on all ranks alike.

    Args:
        module: tested, so that `evaluated` has its columns.
        given: the titles of each row's prompt.
        counterfactual_rows: how many rows' prompts are changed.
    """
    columns, scores = module.evaluated, {}
    if "s_r" in columns:
        scores["real"] = [columns["s_r"]]
        for name, tables in audit.alternatives(columns["text"], given, module.data.nouns, module.models.seed).items():
            scores[name] = [module.score_texts(columns["sample"], texts) for texts in tables]
        scores |= {"untrained": [columns["s_r_untrained"]], "none": [columns["s_0"]]}
    users = _of_rows(module)["user"].rank("dense").to_torch()
    moved = audit.counterfactuals(module, columns, given, users, counterfactual_rows, module.models.seed)
    return Asked(scores, moved)


def tell(module: ExpCTRModule, given: Sequence[SampleText], asked: Asked) -> Told:
    """Measure the explanations.

    Args:
        module: tested.
        given: the titles of each row's prompt.
        asked: what the models said.
    """
    columns, rows = module.evaluated, module.data.samples
    labels, notes = columns["label"], []
    of_row = _of_rows(module)
    users = of_row["user"].rank("dense").to_torch()
    finder = TitleFinder(_catalogue(rows), _names(rows))
    titles = [[row.target, *row.liked, *row.disliked] for row in given]
    reviews = of_row["review"].to_list() if "review" in of_row.columns else []
    added: dict[str, list[Any]] = {
        "target": [row.target for row in given],
        "liked": [list(row.liked) for row in given],
        "disliked": [list(row.disliked) for row in given],
    }
    measured, verdicts = {}, {}
    for who, suffix in (("trained", ""), ("untrained", "_untrained")):
        texts = columns[f"text{suffix}"]
        mentions = [finder.find(*row) for row in zip(texts, given, strict=True)]
        verdicts[who] = [polarity(*row) for row in zip(texts, titles, strict=True)]
        measured[who] = quality.measure(
            texts,
            mentions,
            verdicts[who],
            labels,
            users,
            {name: columns[name + suffix] for name in ("s_u", "s_r") if name + suffix in columns},
            titled=[bool(row.liked or row.disliked) for row in given],
            reviews=reviews,
            token_vectors=lambda part: module.encoder.token_vectors(part, module.device),
        )
        added[f"invented{suffix}"] = [[title.text for title in found.invented] for found in mentions]
        added[f"names_history{suffix}"] = [found.history for found in mentions]
        added[f"verdict{suffix}"] = verdicts[who]
        if empty := sum(not text.strip() for text in texts):
            notes.append(f"{empty} of {len(texts)} explanations of the {who} model are empty")
    if not any(any(row) for row in titles):
        notes.append("no prompt has a title, so there was none to look for in the explanations")
    audited: dict[str, Any] = {}
    if len(set(labels)) < 2:
        notes.append("all test rows have the same label: there is no AUC to split, and no label to give away")
    elif asked.scores:
        audited["ablations"], audited["gain"] = audit.ablations(asked.scores, labels, users)
    if not asked.scores:
        notes.append("no CTR model is trained yet: where its gain comes from is left out")
    if asked.counterfactuals:
        audited["counterfactuals"] = asked.counterfactuals
    target = torch.tensor(labels)
    audited["leakage"] = {
        "auc": audit.leakage(columns["text"], labels, users),
        "auc_untrained": audit.leakage(columns["text_untrained"], labels, users),
        "auc_verdict": audit.auc((torch.tensor(verdicts["trained"]).double() + 1) / 2, target, users),
    }
    return Told(measured, audited, added, notes)


def _of_rows(module: ExpCTRModule) -> pl.DataFrame:
    """The samples of the tested rows, in their order."""
    tested = pl.DataFrame({"sample": module.evaluated["sample"]})
    return tested.join(module.data.samples, on="sample", how="left", maintain_order="left")


def _catalogue(rows: pl.DataFrame) -> list[str]:
    """All titles, in the order of the alphabet."""
    parts = [rows["target_title"], rows["liked_titles"].explode(), rows["disliked_titles"].explode()]
    return sorted(pl.concat(parts).drop_nulls().unique().to_list())


def _names(rows: pl.DataFrame) -> Iterator[str]:
    """What side features call people and kinds, which are no titles."""
    for name, dtype in rows.schema.items():
        if name.startswith(("user_", "target_")) and name != "target_title":
            if dtype == pl.List(pl.String):
                yield from rows[name].explode().drop_nulls().unique().to_list()
            elif dtype == pl.String:
                yield from rows[name].drop_nulls().unique().to_list()
