"""Export of the trained weights to files that other programs read without this package (`expctr export`)."""

import json
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.features import FIRST, Features
from expctr.data.ratings_module import RatingsDataModule
from expctr.distributed import rank
from expctr.errors import UserError
from expctr.export.files import apply_umask, card, save, write_json
from expctr.export.language_model import write_language_model
from expctr.export.model_card import write_card
from expctr.modules.baselines.explained import ExplainedCTRModule
from expctr.modules.baselines.tallrec import TALLRecModule
from expctr.modules.ctr import CTRModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.scoring import ScoringModule
from expctr.modules.staged import StagedModule
from expctr.untrusted import printable


class Exporter(Callback):
    """Writes the trained weights when a prediction starts: the checkpoint is loaded then, and sharded weights are still
    on devices that can gather them.

    A prediction of no rows calls no hook, so predict one row.

    Args:
        model: the run's module.
        out: a new folder, or an empty one.
        merged: also write the language model with the adapter merged into its weights.
        run: its config is copied, and its result table if that is of the exported checkpoint.

    Raises:
        UserError: the folder is not empty, there is nothing to write, or the adapter cannot be merged.
    """

    def __init__(self, model: L.LightningModule, out: Path, merged: bool, run: Path) -> None:
        if not isinstance(model, StagedModule | CTRModule | TALLRecModule):
            raise UserError(
                f"export: {type(model).__name__} trains nothing. Fix: give a run of ExpCTRModule, PPOExplainerModule, "
                "TALLRecModule or a CTR model"
            )
        if merged and isinstance(model, CTRModule):
            raise UserError(f"merged: {type(model).__name__} has no language model. Fix: leave merged out")
        if merged and isinstance(model, StagedModule) and model.models.policy.llm.adapter_scope == "response":
            raise UserError(
                "merged: an adapter with llm.adapter_scope: response does not act on the prompt, and merged weights "
                "would. Fix: leave merged out, and use the adapter with PEFT; or train with adapter_scope: all"
            )
        _check_new(out)
        self.model, self.out, self.merged, self.run = model, out, merged, run
        self._began = False

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: RatingsDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if rank() == 0:
            _check_new(self.out)  # loading took minutes, in which another command may have written there
        self._began = True
        lines = write(self.model, data.features, self.out, self.merged)
        if rank() == 0:
            other = _tested_instead(self.run, Path(str(trainer.ckpt_path)).resolve().name)
            for name in ("config.yaml", *(() if other else ("table.md",))):
                if (self.run / name).is_file():
                    copyfile(self.run / name, self.out / name)
            write_card(self.model, data, self.out, lines)
            if other:
                lines.append(f"no results: the run's last test was of {other}. Run expctr test, then export again")
        rank_zero_info(
            "\n".join(printable(line) for line in (f"exported to {self.out}", *(f"  {line}" for line in lines)))
        )
        trainer.strategy.barrier()
        self._began = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say that what is there is not all, before somebody uses it."""
        if self._began:
            exception.add_note(f"{self.out} is not complete. Fix: remove it, and export again")


def _tested_instead(run: Path, checkpoint: str) -> str:
    """The checkpoint that the run's last test was of, if it is another one and the test says so."""
    try:
        table = json.loads((run / "table.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    tested = table.get("checkpoint") if isinstance(table, dict) else None
    return tested[:120] if isinstance(tested, str) and tested != checkpoint else ""


def _check_new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out: {out} exists already and is not empty. Fix: choose another folder")


def write(module: StagedModule | CTRModule | TALLRecModule, features: Features, out: Path, merged: bool) -> list[str]:
    """Write a trained module, and the data's vocabularies; return a line on each part.

    All ranks have to call this, and rank 0 writes.
    """
    lines: list[str] = []
    if isinstance(module, ScoringModule):
        module.best.restore()  # a checkpoint holds both the last weights and the best ones
    if isinstance(module, StagedModule):
        policy = module.models.policy
        lines += write_language_model(
            policy.model,
            policy.prompts,
            policy.prompts.options.explanation,
            policy.rollout_options.max_new_tokens,
            out,
            merged,
            response=policy.llm.adapter_scope == "response",
        )
        if policy.ppo.advantage == "gae":
            save(policy.value_head.state_dict(), out / "critic.safetensors")
            lines.append("critic.safetensors: the value head")
        if isinstance(module, ExpCTRModule) and module.models.ctr_trained:
            _write_ctr(module.ctr, out / "ctr", module.encoder)
            _write_ctr(module.baseline, out / "ctr_without_text")
            lines.append(f"ctr, ctr_without_text: {module.ctr.name} with explanations and without")
        else:
            lines.append("no CTR model: none is trained")
    elif isinstance(module, TALLRecModule):
        prompts = module.question.prompts
        lines += write_language_model(module.model, prompts, prompts.options.icl, 1, out, merged, response=False)
    else:
        _write_ctr(module, out / "ctr", module.encoder if isinstance(module, ExplainedCTRModule) else None)
        lines.append(f"ctr: {module.name}")
    if rank() == 0:
        if (out / "ctr").exists():
            write_json(_vocabulary(features), out / "vocabulary.json")
            (out / "ctr" / "README.md").write_text(card("ctr.md"), encoding="utf-8")
        apply_umask(out)
    return lines


# --- the CTR models


def _write_ctr(module: CTRModule, folder: Path, encoder: SentenceEncoder | None = None) -> None:
    """Write a CTR model: `model.safetensors`, and `model.json`, which describes it."""
    weights = module.backbones.state_dict()
    mean = encoder.mean if encoder is not None and encoder.mean.ndim > 0 else None
    save(weights if mean is None else weights | {"text_mean": mean}, folder / "model.safetensors")
    backbone: Any = module.backbones[0]
    if rank() > 0:
        return
    tables = {name: part.layout() for name, part in backbone.named_modules() if isinstance(part, FieldEmbeddings)}
    about = {
        "class": module.name,
        "options": module.backbone.keywords if isinstance(module.backbone, partial) else {},
        "models": module.options.crossfit,
        "tables": tables,
        "text": encoder and {"dim": encoder.dim, "encoder": _encoder(encoder), "centred": mean is not None},
    }
    write_json(about, folder / "model.json")


def _encoder(encoder: SentenceEncoder) -> dict[str, Any]:
    options = encoder.options
    return {"path": options.path, "revision": options.revision, "max_tokens": options.max_tokens, "pooling": "mean"}


def _vocabulary(features: Features) -> dict[str, Any]:
    """Each field's values and their indices, and what else turns values into indices."""
    return {
        "values": {name: {v: i for i, v in enumerate(names, FIRST)} for name, names in features.vocabularies.items()},
        "numbers": {name: dict(zip(("mean", "deviation"), of, strict=True)) for name, of in features.numbers.items()},
        "missing": {name: features.missing_index(name) for name in features.kinds},
        "kinds": features.kinds,
        "shares": features.shares,
        "lists": features.lists,
        "history": features.history,
    }
