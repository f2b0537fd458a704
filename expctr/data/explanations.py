"""The explanations gathered so far: what the CTR stage trains on, and a record of every one for people to read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from expctr.whole_files import write_parquet


class ExplanationStore:
    """Sample -> its explanations, and the rows of the epoch under way.

    A finished epoch's rows go to `folder/EPOCH-STAGE.parquet`; those of the epoch under way live here and in the
    checkpoint, so that a killed run loses none and doubles none.
    """

    def __init__(self) -> None:
        self.latest: dict[int, str] = {}
        """The newest explanation of each sample."""
        self.draws: dict[int, list[str]] = {}
        """Several explanations per sample, where the CTR stage learns from more than one."""
        self.untrained: dict[int, list[str]] = {}
        """Explanations that the untrained model samples, as far as they were asked for."""
        self.rows: list[dict[str, Any]] = []

    def add(self, samples: Sequence[int], texts: Sequence[str], **columns: Any) -> None:
        """Keep the texts as the samples' latest, and one row each; `columns` are lists, or one value for all rows."""
        self.latest.update(zip(samples, texts, strict=True))
        for i, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            values = {k: v[i] if isinstance(v, list) else v for k, v in columns.items()}
            self.rows.append({"sample": sample, "text": text, **values})

    def keep(self, samples: Sequence[int], texts: Sequence[Sequence[str]]) -> None:
        """Keep the sampled explanations of each sample; a single one becomes its latest."""
        for sample, sampled in zip(samples, texts, strict=True):
            if len(sampled) == 1:
                self.latest[sample] = sampled[0]
            else:
                self.draws[sample] = list(sampled)

    def __contains__(self, sample: int) -> bool:
        """Has the sample an explanation?"""
        return sample in self.latest or sample in self.draws

    def __bool__(self) -> bool:
        """Has any sample an explanation?"""
        return bool(self.latest or self.draws)

    def texts(self, samples: Sequence[int], draw: int = 0) -> list[str]:
        """One explanation per sample, empty where there is none yet.

        Args:
            samples: their ids.
            draw: which one, where a sample has several; the latest one where it has not.
        """
        several = [self.draws.get(sample) for sample in samples]
        return [
            texts[draw % len(texts)] if texts else self.latest.get(sample, "")
            for sample, texts in zip(samples, several, strict=True)
        ]

    def flush(self, folder: Path, name: str) -> Path | None:
        """Write the rows of the epoch under way to `folder/name.parquet` and begin anew."""
        if not self.rows:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.parquet"
        write_parquet(pl.DataFrame(self.rows, infer_schema_length=None), path)
        self.rows = []
        return path

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, so that a checkpoint loads with `weights_only`."""
        return {
            "latest": dict(self.latest),
            "rows": [dict(row) for row in self.rows],
            "draws": {sample: list(texts) for sample, texts in self.draws.items()},
            "untrained": {sample: list(texts) for sample, texts in self.untrained.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.latest = dict(state["latest"])
        self.rows = [dict(row) for row in state["rows"]]
        self.draws = dict(state.get("draws", {}))  # older checkpoints have none
        self.untrained = dict(state.get("untrained", {}))
