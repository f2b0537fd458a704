"""`expctr export`: what a run trained, in files that other programs read without this package."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.encoder import SentenceEncoder
from expctr.data.datamodules import RatingsDataModule
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


def export(
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: RatingsDataModule,
    ckpt_path: str | None,
    out: Path,
    merged: bool,
) -> None:
    """Load a checkpoint as `predict` does, and write what it holds in place of predictions.

    Args:
        trainer: the run's.
        model: the run's module.
        datamodule: the run's data.
        ckpt_path: the checkpoint.
        out: the folder; a new one, or empty.
        merged: also write the base with the adapter in its weights.

    Raises:
        UserError: the folder is not empty, or there is nothing to write.
    """
    if not isinstance(model, ExpCTRModule | CTRModule | TALLRecModule):
        raise UserError(f"export: {type(model).__name__} trains nothing, so there is nothing to export")
    if merged and isinstance(model, CTRModule):
        raise UserError(f"merged: {type(model).__name__} has no language model")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out: {out} is there already and not empty: give another folder")

    # where weights are loaded, and sharded ones still on devices that can gather them; no public hook stands there, for
    # of a loop over no batches Lightning leaves out the hooks, too
    def run_stage() -> None:
        write(model, datamodule.features, out, merged)
        config = Path(trainer.default_root_dir) / "config.yaml"
        if rank() == 0 and config.exists():
            copyfile(config, out / "config.yaml")
        trainer.strategy.barrier()

    trainer._run_stage = run_stage  # type: ignore[method-assign]
    trainer.predict(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True, return_predictions=False)


def write(module: ExpCTRModule | CTRModule | TALLRecModule, features: Features, out: Path, merged: bool) -> None:
    """Write a trained module; for all ranks together, of which the first one writes.

    Args:
        module: with the weights to write.
        features: the data's vocabularies.
        out: the folder.
        merged: also write the base with the adapter in its weights.
    """
    told: list[str] = []
    if isinstance(module, ScoringModule):
        module.best.restore()  # the checkpoint holds the last weights and the best ones
    if isinstance(module, ExpCTRModule):
        explainer = module.explainer
        told += _write_language_model(explainer.model, out, merged, explainer.llm.adapter_scope == "response")
        if explainer.ppo.advantage == "gae":
            _save(explainer.value_head.state_dict(), out / "critic.safetensors")
            told.append("critic.safetensors: the value head")
        if module.models.ctr_trained:
            _write_ctr(module.ctr, out / "ctr", module.encoder, module.encoder.mean)
            _write_ctr(module.baseline, out / "ctr_without_text")
            told.append(f"ctr, ctr_without_text: {module.ctr.name} with explanations and without")
        else:
            told.append("no CTR model: its stage has not ended yet")
    elif isinstance(module, TALLRecModule):
        told += _write_language_model(module.model, out, merged, response_only=False)
    else:
        reads = (module.encoder, module.encoder.mean) if isinstance(module, ExplainedCTRModule) else ()
        _write_ctr(module, out / "ctr", *reads)
        told.append(f"ctr: {module.name}")
    if (out / "ctr").exists() and rank() == 0:
        _write_json(_vocabulary(features), out / "vocabulary.json")
        (out / "ctr" / "README.md").write_text(CTR_README, encoding="utf-8")
    rank_zero_info("\n".join([f"exported to {out}", *(f"  {line}" for line in told)]))


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, gathered from all ranks."""
    whole = {name: _whole(weight) for name, weight in weights.items()}
    if rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, path)


def _whole(weight: Tensor) -> Tensor:
    """On the CPU, and not shared with anything."""
    weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return weight.detach().to("cpu", copy=True).contiguous()


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- the language model


def _write_language_model(model: LanguageModel, out: Path, merged: bool, response_only: bool) -> list[str]:
    """The adapter in PEFT's format, and the merged model; returns what is there now."""
    options = model.options
    if merged and model.quantized and options.quantization == "none":
        raise UserError(
            f"merged: {options.path} is quantized on disk, and a merge would round the adapter's weights away: give "
            "llm.path its float weights, or use the adapter by PEFT"
        )
    weights = {name: _whole(p) for name, p in model.peft.named_parameters() if p.requires_grad}
    folder = out / "adapter"
    if rank() > 0:
        return []
    # without a question to the hub on whether the vocabulary has grown
    model.peft.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
    base = options.path + (f" ({options.gguf_file})" if options.gguf_file else "")
    trained = f"{str(model.causal.dtype).removeprefix('torch.')}{', in 4 or 8 bits' if model.quantized else ''}"
    about = ADAPTER_README.format(base=base, revision=options.revision or "as it is", trained=trained)
    (folder / "README.md").write_text(about + (RESPONSE if response_only else EVERY_TOKEN), encoding="utf-8")
    told = ["adapter: PEFT's format"]
    if merged:
        told.append("merged: the base in float32, the adapter in its weights")
        _merge(model, folder, out / "merged")
        if response_only:
            (out / "merged" / "README.md").write_text(f"# NOT the model that was trained\n{RESPONSE}", encoding="utf-8")
    if response_only:
        told.append(
            "CAREFUL: it was trained with llm.adapter_scope: response. Merged, or used by PEFT as usual, it acts on "
            "the prompt too, and that is ANOTHER MODEL. adapter/README.md shows its exact use"
        )
    return told


def _merge(model: LanguageModel, adapter: Path, out: Path) -> None:
    """From a fresh base in float32: the one in memory is rounded, and is to stay as it is."""
    from peft import PeftModel

    base = load_base(replace(model.options, dtype="float32", quantization="none"))
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
    model.tokenizer.save_pretrained(out)


ADAPTER_README = """\
---
library_name: peft
---
# A LoRA adapter trained by expctr

Base: `{base}`, revision: {revision}, computed in {trained} while the adapter learnt. The templates of its prompts are
`prompts` in `../config.yaml`; each is one user message in the base's own chat template.
"""

EVERY_TOKEN = """
The adapter acts on every token, as PEFT has it:

```python
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "adapter")
```
"""

RESPONSE = """
## It acts from the prompt's last token on, and not before

It was trained with `llm.adapter_scope: response`: keys and values of all prompt tokens but the last come from the base
without the adapter. **With the adapter on throughout, as PEFT has it, or merged into the base's weights, it acts on the
prompt too: that is another model, which nobody trained.** Its exact use, for one prompt `ids` of shape `[1, tokens]`:

```python
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "adapter")
with torch.no_grad(), model.disable_adapter():
    cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, do_sample=False)
```
"""


# --- the CTR models


def _write_ctr(
    module: CTRModule, folder: Path, encoder: SentenceEncoder | None = None, text_mean: Tensor | None = None
) -> None:
    """`model.safetensors` and `model.json`, by which to use it."""
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
    """Every field's values and their indices."""
    values = {
        name: dict(zip(names, range(FIRST, FIRST + len(names)), strict=True))
        for name, names in features.vocabularies.items()
    }
    return {"values": values, "shares": features.shares, "lists": features.lists, "history": features.history}


CTR_README = """\
# A click model trained by expctr

`model.safetensors` has the weights, `model.json` what they are, `../vocabulary.json` the ids. Neither needs expctr.

**From values to indices.** `values` in `vocabulary.json` maps each field's values (as strings) to indices. Index 0 is
padding, index 1 any value that is not in the map. Integers (years, ages) are counted in fives: 1997 is `"1995"`.
Fields in `lists` hold several values a row; fields in `shares` (`liked`, `disliked`) use another field's map.

**From indices to vectors.** `tables` in `model.json` names each embedding table: the weight `N.TABLE.weight` of model
N. The fields stand in it in the order in which the model reads them. An index i of 1 or more is the row `start` + i;
where `size` (how many indices there are) is above `rows` (how many rows there are), an i of 2 or more becomes 2 + ((i
times 2654435761) mod 2^32) mod (rows - 2) first. Padding has no vector. A field's vector is the mean over its values, 0
where it has none.

**The models.** There are `models` of them, cross-fitted, with names that begin with 0., 1., ...; the logit is the
mean of theirs, the click's probability its sigmoid. `class` names the model and `options` are its own; what is not
among them has the default of `expctr/ctr/zoo`, as `config.yaml` says. In DeepFM, as an example, a row of the table
`fields` is a field's vector and, last, its first-order weight; the logit is

    sum of first-order weights + FM(vectors) + last(tower(vectors side by side))
    FM(v) = half the sum over (sum of v)^2 - sum of v^2

where `deep.layers.K.x` are the tower's layers, each with a ReLU after it, and `last.x` is the last one.

**Explanations.** Where `text` is not null, the model reads the explanation's vector z: `encoder`'s last hidden
states, averaged over the tokens, not normalised, less `text_mean` where `centred`. An empty explanation has z = 0. z
is scaled to a root mean square of 1 (0 stays 0) and enters by the weight named `z`, beside the layer `x` that it
joins: x(hidden) + z @ weight.T.
"""
