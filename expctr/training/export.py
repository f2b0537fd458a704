"""`expctr export`: the trained weights, in files that other programs read without this package."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
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
        (out / "ctr" / "README.md").write_text(CTR_README, encoding="utf-8")
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
    about = ADAPTER_README.format(base=base, revision=options.revision or "the default", trained=trained)
    (folder / "README.md").write_text(about + (RESPONSE if response_only else EVERY_TOKEN), encoding="utf-8")
    lines = ["adapter: PEFT's format"]
    if merged:
        lines.append("merged: the language model in float32, with the adapter in its weights")
        _merge(model, folder, out / "merged")
        if response_only:
            (out / "merged" / "README.md").write_text(f"# NOT the model that was trained\n{RESPONSE}", encoding="utf-8")
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


ADAPTER_README = """\
---
library_name: peft
---
# A LoRA adapter trained by expctr

Base: `{base}`, revision: {revision}, computed in {trained} during training. The prompt templates are `prompts` in
`../config.yaml`; each prompt is one user message in the base's own chat template.
"""

EVERY_TOKEN = """
The adapter acts on every token, as is usual in PEFT:

```python
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), "adapter")
```
"""

RESPONSE = """
## The adapter acts from the prompt's last token on

It was trained with `llm.adapter_scope: response`: keys and values of all prompt tokens but the last come from the base
without the adapter. **If the adapter is active throughout, as is usual in PEFT, or merged into the base's weights, it
also acts on the prompt: that is another model, which was never trained.** The exact use, for one prompt `ids` of shape
`[1, tokens]`:

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
    """Each field's values and their indices."""
    values = {name: {v: i for i, v in enumerate(names, FIRST)} for name, names in features.vocabularies.items()}
    return {"values": values, "shares": features.shares, "lists": features.lists, "history": features.history}


CTR_README = """\
# A click model trained by expctr

`model.safetensors` holds the weights, `model.json` describes them, and `../vocabulary.json` maps values to indices. No
file needs expctr.

**From values to indices.** `values` in `vocabulary.json` maps each field's values (as strings) to indices. Index 0 is
padding, index 1 is any value that is not in the map. Integers (years, ages) are rounded down to a multiple of five:
1997 is `"1995"`. Fields in `lists` hold several values per row; fields in `shares` (`liked`, `disliked`) use another
field's map.

**From indices to vectors.** `tables` in `model.json` names each embedding table: the weight `N.TABLE.weight` of model
N. Its fields are in the order in which the model reads them. An index i of 1 or more is the row `start` + i. If `size`
(the number of indices) is larger than `rows` (the number of rows), an i of 2 or more is first replaced by 2 + ((i times
2654435761) mod 2^32) mod (rows - 2). Padding has no vector. A field's vector is the mean over its values, or 0 where it
has none.

**The models.** There are `models` cross-fitted models, with names that begin with 0., 1., ...; the logit is the mean of
their logits, and the click probability is its sigmoid. `class` names the model, and `options` are its options; the
others have the defaults of `expctr/ctr/zoo`, as in `config.yaml`. In DeepFM, for example, a row of the table `fields`
is a field's vector and, last, its first-order weight. The logit is

    sum of first-order weights + FM(vectors) + last(tower(vectors side by side))
    FM(v) = half the sum over (sum of v)^2 - sum of v^2

where `deep.layers.K.x` are the tower's layers, each followed by a ReLU, and `last.x` is the last layer.

**Explanations.** If `text` is not null, the model reads the explanation's vector z: the last hidden states of
`encoder`, averaged over the tokens and not normalised, minus `text_mean` if `centred`. An empty explanation has z = 0.
z is scaled to a root mean square of 1 (0 stays 0). The weight named `z` adds it to the output of the layer `x` beside
it: x(hidden) + z @ weight.T.
"""
