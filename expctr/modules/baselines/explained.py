"""The explained baseline: any model of the zoo, trained on the explanations of a finished ExpCTR run."""

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from expctr.ctr.click_model import CTROptions, MakeBackbone
from expctr.ctr.encoder import EncoderOptions, SentenceEncoder
from expctr.data.batches import Batch
from expctr.data.readers.base import POLARS_ERRORS
from expctr.errors import UserError, first_line
from expctr.modules.ctr import CTRModule
from expctr.modules.frozen_models import check_traits, traits

_KEY = {"sample": pl.Int64(), "target": pl.String()}


class ExplainedCTRModule(CTRModule):
    """A CTR model that reads the explanations of a finished ExpCTR run: what they are worth to another model.

    It learns from the latest sampled explanation of each training row (z = 0 for a row that never got one). It is
    validated and tested on greedy explanations of the trained policy (validated on sampled ones if the run ended with a
    CTR stage). The policy is not trained further.

    Args:
        explanations: the run's folder; `expctr test` has written `explanations/latest.parquet` there.
        backbone: the model, one of `expctr.ctr.zoo`.
        encoder: the sentence encoder (Eq. 11), best the run's own.
        options: how it is trained.
    """

    why_own_rows_only = (
        "ExplainedCTRModule has explanations of the run's own rows alone, and can score no others. Fix: score them "
        "with a run of ExpCTRModule"
    )

    def __init__(
        self,
        explanations: str,
        backbone: MakeBackbone,
        encoder: EncoderOptions = EncoderOptions(),
        options: CTROptions = CTROptions(),
    ) -> None:
        super().__init__(backbone, options)
        self.path, self.encoder = Path(explanations) / "explanations" / "latest.parquet", SentenceEncoder(encoder)
        if not self.path.exists():
            raise UserError(f"explanations: there is no {self.path}: run expctr fit and expctr test of ExpCTR first")
        self._vectors, self._texts = torch.zeros(0), ""

    def configure_model(self) -> None:
        """Build for the data module's vocabularies, and encode the explanations."""
        if self.built:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.people is not None:
            raise UserError(f"data.people: {self.why_own_rows_only}")
        self.build(data.features.vocabulary, self.encoder.dim, data.seed)
        if self.device_mesh is not None:
            self.shard(self.device_mesh["data_parallel"])
        self._vectors = self._encode(data.samples)

    def text(self, batch: Batch) -> Tensor:
        """The explanations' vectors z, `[batch, text_dim]`; 0 for a row without one."""
        self._vectors = self._vectors.to(self.device)
        return self._vectors[batch.sample]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also what tells the explanations and the encoder from others."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["explained"] = {"texts": self._texts, "encoder.path": traits(*self.encoder.parts)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse other explanations than the checkpoint's, and another encoder."""
        super().on_load_checkpoint(checkpoint)
        if then := checkpoint.get("explained"):  # older checkpoints have none
            check_traits(traits(*self.encoder.parts), then["encoder.path"], "encoder.path")
            if then["texts"] != self._texts:
                raise UserError(
                    f"{self.path} holds other explanations than this run was made with. Fix: put the former file back, "
                    "or start a run in another folder"
                )

    def _encode(self, samples: pl.DataFrame) -> Tensor:
        """`[samples, text_dim]`, in the order of the samples' ids."""
        written = _read(self.path)
        rows = samples.sort("sample").select("sample", "split", "target")
        joined = rows.join(written, on=list(_KEY), how="left", maintain_order="left")
        if missing := joined.filter(pl.col("split") != "train")["text"].null_count():
            raise UserError(
                f"{self.path} lacks explanations of {missing} validation and test samples: it is of other data or of a "
                "run that was stopped. Fix: use that run's data options, and let it end"
            )
        texts = joined["text"].fill_null("")
        self._texts = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        if self.encoder.options.centre:
            self.encoder.centre(texts.filter(joined["split"] == "train").to_list(), self.device)
        return self.encoder.vectors(texts.to_list(), self.device)


def _read(path: Path) -> pl.DataFrame:
    """The explanations, one per sample and target."""
    fix = "Fix: run expctr test of that run again"
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path} is no plain file. {fix}")
    wanted = {**_KEY, "text": pl.String()}
    try:
        written = pl.read_parquet(path, glob=False, columns=[*wanted])
    except (OSError, *POLARS_ERRORS) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}. {fix}") from error
    if dict(written.schema) != wanted or written.select(*_KEY).is_duplicated().any():
        raise UserError(f"{path} does not hold one text per sample and target. {fix}")
    return written
