"""`expctr explain` with the untrained model that ships with the package, which needs no config."""

import argparse
import json
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from expctr.cli.arguments import names_run
from expctr.cli.configs import packaged_configs
from expctr.data.sample_rows import read_titles
from expctr.errors import UserError, exit_with_error

NOTE = (
    "untrained: this is the shipped nano model before any training, so expect a poor answer. Next: in a clone, bash "
    "tools/quickstart.sh trains it on MovieLens-100K, and expctr explain runs/quickstart uses the trained run"
)

OPTIONS = {"--target", "--liked", "--disliked", "--json"}


def needs_no_config(args: Sequence[str]) -> bool:
    """Whether `expctr explain` with these options needs no config."""
    return not names_run(args) and {arg.partition("=")[0] for arg in args if arg.startswith("-")} <= OPTIONS


def main(args: Sequence[str]) -> None:
    """Run `expctr explain` with the shipped model."""
    try:
        options = _parse(args)
        found = explain_untrained(options.target, read_titles(options.liked), read_titles(options.disliked))
    except UserError as error:
        exit_with_error(error)
    if options.json != "false":
        print(json.dumps(found))
    else:
        from rich.console import Console

        from expctr.evaluation.explain import show

        Console().print(show(found))


def explain_untrained(target: str, liked: Sequence[str], disliked: Sequence[str]) -> dict[str, Any]:
    """Explain one choice with the shipped model, by the quickstart's options. Titles are given oldest first.

    Returns:
        What `expctr.evaluation.explain.answer` returns; `trained`, which is False; and `seconds` without the imports.

    Raises:
        UserError: there is no target or no history.
    """
    if not read_titles([target]) or not (liked or disliked):
        raise UserError(
            "nothing to explain: give a title as --target, and titles as --liked or --disliked; or a run's --config"
        )
    import polars as pl
    import torch
    import yaml  # type: ignore[import-untyped]
    from transformers.utils.logging import disable_progress_bar

    from expctr.data.batches import Batch, SampleText
    from expctr.data.catalogue import Item
    from expctr.data.datamodules import MovieLensDataModule
    from expctr.data.query import Query
    from expctr.data.sample_rows import HistoryEntry, without_each
    from expctr.evaluation.explain import answer
    from expctr.llm.loading import LLMOptions
    from expctr.llm.rollout import RolloutOptions
    from expctr.llm.yes_no import LCOptions
    from expctr.rl.options import EvaluationOptions
    from expctr.rl.policy import Policy
    from expctr.stages.models import Models, as_lists

    history = [HistoryEntry(Item("", title), i < len(liked)) for i, title in enumerate([*liked, *disliked])]
    samples = [
        SampleText(target, *(tuple(entry.item.title for entry in row if entry.liked is kind) for kind in (True, False)))
        for row in without_each(history)
    ]
    options = yaml.safe_load(packaged_configs()["quickstart"].read_text())["model"]["init_args"]["explainer"]
    policy = Policy(
        LLMOptions(**options["llm"]),
        rollout=RolloutOptions(**options["rollout"]),
        lc=LCOptions(**options["lc"]),
        evaluation=EvaluationOptions(**options["evaluation"]),
    )
    models = Models(policy)
    models.data = MovieLensDataModule("")
    disable_progress_bar()
    policy.build(models.data.nouns, device=torch.device("cpu"))
    start = perf_counter()
    with torch.no_grad():
        batch = Batch(torch.arange(len(samples)), torch.full([len(samples)], torch.nan), {}, samples)
        columns, _ = models.explain(batch, policy.evaluation.samples)
    rows = pl.DataFrame({"sample": range(len(samples))})
    found = answer(Query("", Item("", target), history, None, "", rows, []), as_lists(columns), "")
    return {**found, "notes": [NOTE], "trained": False, "seconds": round(perf_counter() - start, 3)}


def _parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--target", default="")
    for name in ("--liked", "--disliked"):
        parser.add_argument(name, default="")
    parser.add_argument("--json", nargs="?", const="true", default="false", choices=("true", "false"))
    try:
        options, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    if others:
        raise UserError(f"{' '.join(others)}: name the option, such as --target")
    return options
