"""Assessment of a test's explanations: queries the models first, then measures the texts (`quality`, `audit`)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import torch

from expctr.data.batches import SampleText
from expctr.evaluation import audit, quality
from expctr.modules.staged import StagedModule
from expctr.sentences.claims import claims_of
from expctr.sentences.titles import TitleFinder
from expctr.sentences.verdicts import polarity
from expctr.stages.models import texts_by_row


class ModelOutputs(NamedTuple):
    """Scores and counterfactuals, which only the models can give."""

    scores: dict[str, list[list[float]]]
    """s_r by the keys of `systems.ABLATIONS`, one or several lists each; empty without a trained CTR model."""
    counterfactuals: dict[str, Any]


class Assessment(NamedTuple):
    """What a test finds about its explanations."""

    quality: dict[str, Any]
    audit: dict[str, Any]
    columns: dict[str, list[Any]]
    """For `test.parquet`."""
    notes: list[str]
    """What was left out, and why."""

    @property
    def schema(self) -> dict[str, Any]:
        """Types of the columns whose values may all be empty."""
        names = ("invented", "invented_untrained", "misstated", "misstated_untrained", "liked", "disliked")
        return dict.fromkeys(names, pl.List(pl.String))


def query_models(module: StagedModule, prompts: Sequence[SampleText], counterfactual_rows: int) -> ModelOutputs:
    """Run the models for the audit of a test, on all ranks. `prompts` are the titles in each row's prompt."""
    columns, scores = module.evaluated, {}
    if "s_r" in columns:
        scores["real"] = [columns["s_r"]]
        rows = texts_by_row(columns)
        texts = [text for row in rows for text in row]
        given = [prompt for prompt, row in zip(prompts, rows, strict=True) for _ in row]
        for name, tables in audit.alternatives(texts, given, module.data.nouns, module.models.seed).items():
            scores[name] = [module.score_texts(columns["sample"], texts) for texts in tables]
        scores |= {"untrained": [columns["s_r_untrained"]], "none": [columns["s_0"]]}
    users = _tested_samples(module)["user"].rank("dense").to_torch()
    moved = audit.counterfactuals(module, columns, prompts, users, counterfactual_rows, module.models.seed)
    return ModelOutputs(scores, moved)


def assess(module: StagedModule, prompts: Sequence[SampleText], outputs: ModelOutputs) -> Assessment:
    """Measure the explanations of a test."""
    columns, samples, encoder = module.evaluated, module.data.samples, module.models.encoder
    labels, notes = columns["label"], []
    tested = _tested_samples(module)
    users = tested["user"].rank("dense").to_torch()
    finder = TitleFinder(_catalogue(samples), _names(samples))
    titles = [[row.target, *row.liked, *row.disliked] for row in prompts]
    reviews = tested["review"].to_list() if "review" in tested.columns else []
    added: dict[str, list[Any]] = {
        "target": [row.target for row in prompts],
        "liked": [list(row.liked) for row in prompts],
        "disliked": [list(row.disliked) for row in prompts],
    }
    measured, verdicts = {}, {}
    for who, suffix in (("trained", ""), ("untrained", "_untrained")):
        texts = columns[f"text{suffix}"]
        mentions = [finder.find(*row) for row in zip(texts, prompts, strict=True)]
        claims = [claims_of(text, row.liked, row.disliked) for text, row in zip(texts, prompts, strict=True)]
        verdicts[who] = [polarity(*row) for row in zip(texts, titles, strict=True)]
        measured[who] = quality.measure(
            texts,
            mentions,
            verdicts[who],
            labels,
            users,
            {name: columns[name + suffix] for name in ("s_u", "s_r") if name + suffix in columns},
            claims,
            titled=[bool(row.liked or row.disliked) for row in prompts],
            reviews=reviews,
            token_vectors=partial(encoder.token_vectors, device=module.device) if encoder is not None else None,
        )
        added[f"invented{suffix}"] = [[title.text for title in found.invented] for found in mentions]
        added[f"misstated{suffix}"] = [found.wrong for found in claims]
        added[f"names_history{suffix}"] = [found.history for found in mentions]
        added[f"verdict{suffix}"] = verdicts[who]
        if empty := sum(not text.strip() for text in texts):
            notes.append(f"{empty} of {len(texts)} explanations of the {who} model are empty")
    if not any(any(row) for row in titles):
        notes.append("no prompt contains a title, so explanations were not searched for titles")
    audited: dict[str, Any] = {}
    if len(set(labels)) < 2:
        notes.append("all test rows have the same label, so AUC, its gain and the leakage of labels are undefined")
    elif outputs.scores:
        audited["ablations"], audited["gain"] = audit.ablations(outputs.scores, labels, users)
    if outputs.scores:
        audited["agreement"] = audit.agreement(columns["s_u"], columns["s_r"], users)
    else:
        notes.append("no CTR model is trained yet, so the audit of its gain is missing")
    if outputs.counterfactuals:
        audited["counterfactuals"] = outputs.counterfactuals
    audited["leakage"] = {
        "auc": audit.leakage(columns["text"], labels, users),
        "auc_untrained": audit.leakage(columns["text_untrained"], labels, users),
        "auc_verdict": audit.auc((torch.tensor(verdicts["trained"]).double() + 1) / 2, torch.tensor(labels), users),
    }
    return Assessment(measured, audited, added, notes)


def _tested_samples(module: StagedModule) -> pl.DataFrame:
    """The samples of the tested rows, in the rows' order."""
    tested = pl.DataFrame({"sample": module.evaluated["sample"]})
    return tested.join(module.data.samples, on="sample", how="left", maintain_order="left")


def _catalogue(samples: pl.DataFrame) -> list[str]:
    """All titles, sorted."""
    parts = [samples["target_title"], samples["liked_titles"].explode(), samples["disliked_titles"].explode()]
    return sorted(pl.concat(parts).drop_nulls().unique().to_list())


def _names(samples: pl.DataFrame) -> Iterator[str]:
    """Values of the side features, such as authors and genres, which are not titles."""
    for name, dtype in samples.schema.items():
        if name.startswith(("user_", "target_")) and name != "target_title":
            if dtype == pl.List(pl.String):
                yield from samples[name].explode().drop_nulls().unique().to_list()
            elif dtype == pl.String:
                yield from samples[name].drop_nulls().unique().to_list()
