"""Export of the trained weights to files that other programs read without this package (`expctr export`)."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from shutil import copyfile
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.features import FIRST, Features
from expctr.distributed import rank
from expctr.errors import UserError
from expctr.llm.loading import load_base
from expctr.llm.model import LanguageModel
from expctr.modules.baselines.explained import ExplainedCTRModule
from expctr.modules.baselines.tallrec import TALLRecModule
from expctr.modules.ctr import CTRModule
from expctr.modules.expctr import ExpCTRModule
from expctr.modules.scoring import ScoringModule


class Exporter(Callback):
    """Writes the trained weights when a prediction starts: the checkpoint is loaded then, and sharded weights are still
    on devices that can gather them.

    A prediction of no rows calls no hook, so predict one row.

    Args:
        model: the run's module.
        out: a new folder, or an empty one.
        merged: also write the language model with the adapter merged into its weights.
        config: is copied if it exists.

    Raises:
        UserError: the folder is not empty, or there is nothing to write.
    """

    def __init__(self, model: L.LightningModule, out: Path, merged: bool, config: Path) -> None:
        if not isinstance(model, ExpCTRModule | CTRModule | TALLRecModule):
            raise UserError(f"export: {type(model).__name__} trains nothing, so there is nothing to export")
        if merged and isinstance(model, CTRModule):
            raise UserError(f"merged: {type(model).__name__} has no language model")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"out: {out} exists already and is not empty: choose another folder")
        self.model, self.out, self.merged, self.config = model, out, merged, config

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        features: Features = trainer.datamodule.features  # type: ignore[attr-defined]
        write(self.model, features, self.out, self.merged)
        if rank() == 0 and self.config.exists():
            copyfile(self.config, self.out / "config.yaml")
        trainer.strategy.barrier()


def write(module: ExpCTRModule | CTRModule | TALLRecModule, features: Features, out: Path, merged: bool) -> None:
    """Write a trained module, and the data's vocabularies. All ranks have to call this, and rank 0 writes."""
    lines: list[str] = []
    if isinstance(module, ScoringModule):
        module.best.restore()  # a checkpoint holds both the last weights and the best ones
    if isinstance(module, ExpCTRModule):
        explainer = module.explainer
        lines += _write_language_model(explainer.model, out, merged, explainer.llm.adapter_scope == "response")
        if explainer.ppo.advantage == "gae":
            _save(explainer.value_head.state_dict(), out / "critic.safetensors")
            lines.append("critic.safetensors: the value head")
        if module.models.ctr_trained:
            _write_ctr(module.ctr, out / "ctr", module.encoder, module.encoder.mean)
            _write_ctr(module.baseline, out / "ctr_without_text")
            lines.append(f"ctr, ctr_without_text: {module.ctr.name} with explanations and without")
        else:
            lines.append("no CTR model: its stage has not finished")
    elif isinstance(module, TALLRecModule):
        lines += _write_language_model(module.model, out, merged, response_only=False)
    else:
        reads = (module.encoder, module.encoder.mean) if isinstance(module, ExplainedCTRModule) else ()
        _write_ctr(module, out / "ctr", *reads)
        lines.append(f"ctr: {module.name}")
    if (out / "ctr").exists() and rank() == 0:
        _write_json(_vocabulary(features), out / "vocabulary.json")
        (out / "ctr" / "README.md").write_text(_card("ctr"), encoding="utf-8")
    rank_zero_info("\n".join([f"exported to {out}", *(f"  {line}" for line in lines)]))


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    """Gather tensors from all ranks and write them."""
    whole = {name: _whole(weight) for name, weight in weights.items()}
    if rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, path)


def _whole(weight: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all ranks where it is sharded."""
    weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return weight.detach().to("cpu", copy=True).contiguous()


def _card(name: str) -> str:
    """The text of a README, from the folder `cards`."""
    return (files("expctr") / "training" / "cards" / f"{name}.md").read_text(encoding="utf-8")


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- the language model


def _write_language_model(model: LanguageModel, out: Path, merged: bool, response_only: bool) -> list[str]:
    """Write the adapter in PEFT's format, and the merged model if asked for; return a line on each."""
    options = model.options
    if merged and model.quantized and options.quantization == "none":
        raise UserError(
            f"merged: {options.path} is quantized on disk, and a merge would round the adapter's weights away: set "
            "llm.path to the float weights, or load the adapter with PEFT"
        )
    weights = {name: _whole(p) for name, p in model.peft.named_parameters() if p.requires_grad}
    folder = out / "adapter"
    if rank() > 0:
        return []
    # save_embedding_layers=False: PEFT would ask the hub whether the vocabulary has grown
    model.peft.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
    base = options.path + (f" ({options.gguf_file})" if options.gguf_file else "")
    trained = f"{str(model.causal.dtype).removeprefix('torch.')}{', in 4 or 8 bits' if model.quantized else ''}"
    about = _card("adapter").format(base=base, revision=options.revision or "the default", trained=trained)
    (folder / "README.md").write_text(
        about + _card("response_only" if response_only else "every_token"), encoding="utf-8"
    )
    lines = ["adapter: PEFT's format"]
    if merged:
        lines.append("merged: the language model in float32, with the adapter in its weights")
        _merge(model, folder, out / "merged")
        if response_only:
            card = "# NOT the model that was trained\n" + _card("response_only")
            (out / "merged" / "README.md").write_text(card, encoding="utf-8")
    if response_only:
        lines.append(
            "WARNING: the adapter was trained with llm.adapter_scope: response. Merged, or loaded with PEFT as usual, "
            "it also acts on the prompt, and that is ANOTHER MODEL. adapter/README.md shows the exact use"
        )
    return lines


def _merge(model: LanguageModel, adapter: Path, out: Path) -> None:
    """Merge into a fresh base in float32: the one in memory is rounded, and must not change."""
    from peft import PeftModel

    base = load_base(replace(model.options, dtype="float32", quantization="none"))
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
    model.tokenizer.save_pretrained(out)


# --- the CTR models


def _write_ctr(
    module: CTRModule, folder: Path, encoder: SentenceEncoder | None = None, text_mean: Tensor | None = None
) -> None:
    """Write a CTR model: `model.safetensors`, and `model.json`, which describes it."""
    weights = module.backbones.state_dict()
    centred = text_mean is not None and text_mean.ndim > 0
    _save(weights | ({"text_mean": text_mean} if centred else {}), folder / "model.safetensors")
    backbone: Any = module.backbones[0]
    if rank() > 0:
        return
    tables = {name: part.layout() for name, part in backbone.named_modules() if isinstance(part, FieldEmbeddings)}
    about = {
        "class": module.name,
        "options": module.backbone.keywords if isinstance(module.backbone, partial) else {},
        "models": module.options.crossfit,
        "tables": tables,
        "text": encoder and {"dim": encoder.dim, "encoder": _encoder(encoder), "centred": centred},
    }
    _write_json(about, folder / "model.json")


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
