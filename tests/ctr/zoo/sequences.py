"""Histories for the tests of the sequential models, and RecBole's recorded outputs (tools/parity/record.py)."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from expctr.ctr.zoo.sequential import SequentialBackbone
from expctr.data.features import Vocabulary

HISTORY, USERS, ITEMS, TEXT = 6, 9, 15, 5
VOCABULARY = Vocabulary({"user": USERS, "target": ITEMS, "genres": 4}, {"liked": "target"}, HISTORY)
_RECORDINGS = Path(__file__).parents[1] / "parity"


def make(kind: type[SequentialBackbone], text_dim: int = 0, seed: int = 0, **options: Any) -> SequentialBackbone:
    """A small model in eval mode, its weights large enough to show what each does."""
    torch.manual_seed(seed)
    model = kind(VOCABULARY, text_dim, **{"embedding_dim": 8, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("past.marks"):
                parameter.normal_(0, 0.5)
        model.items.weight[0] = 0
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):  # small ones would silence the layers before them
                module.weight.add_(1)
    return model


def features(*histories: list[int], target: int = 3) -> dict[str, Tensor]:
    """One row a history, all of one user, for one target; every second item liked."""
    items = torch.tensor([[*items, *[0] * (HISTORY - len(items))] for items in histories])
    rows = len(histories)
    return {
        "history": items,
        "history_liked": (torch.arange(HISTORY) % 2 + 1) * (items != 0),
        "user": torch.full((rows,), 4),
        "target": torch.full((rows,), target),
    }


def drawn(rows: int = 64, longest: int = HISTORY) -> dict[str, Tensor]:
    """Random rows, their histories of all lengths from 0 to `longest`."""
    generator = torch.Generator().manual_seed(1)

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(1, size, shape, generator=generator)

    there = torch.arange(HISTORY) < (torch.arange(rows) % (longest + 1))[:, None]
    return {
        "history": draw(ITEMS, rows, HISTORY) * there,
        "history_liked": draw(3, rows, HISTORY) * there,
        "user": draw(USERS, rows),
        "target": draw(ITEMS, rows),
    }


class Recording(NamedTuple):
    """RecBole's recorded outputs."""

    options: dict[str, Any]
    """As RecBole calls them."""
    vocabulary: Vocabulary
    features: dict[str, Tensor]
    """All items marked as liked."""
    logit: Tensor
    penalty: Tensor | None
    weights: dict[str, Tensor]
    """Under RecBole's names; take them out with `pop`, so that one that was forgotten remains."""


def recording(name: str) -> Recording:
    """A model's file."""
    with safe_open(_RECORDINGS / f"{name}.safetensors", framework="pt") as file:
        options = json.loads(file.metadata()["options"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    inputs = {key.removeprefix("input."): value for key, value in tensors.items() if key.startswith("input.")}
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    inputs["history_liked"] = 2 * (inputs["history"] != 0)
    sizes = {"user": 7, "target": 11}
    vocabulary = Vocabulary(sizes, history=inputs["history"].shape[1])
    return Recording(options, vocabulary, inputs, tensors["logit"], tensors.get("penalty"), weights)


def carry_over(model: SequentialBackbone, weights: dict[str, Tensor], left: dict[str, Tensor]) -> None:
    """Load RecBole's weights under our names: all of ours but the marks and the bias, none `left` of RecBole's."""
    assert not left
    keys = model.load_state_dict(weights, strict=False)
    assert not keys.unexpected_keys
    assert set(keys.missing_keys) == {"past.marks.weight", "text.bias"}
    model.eval()


def transformer_options(theirs: dict[str, Any]) -> dict[str, Any]:
    """Our names of RecBole's options."""
    names = {
        "n_layers": "layers",
        "n_heads": "heads",
        "hidden_size": "embedding_dim",
        "inner_size": "inner",
        "hidden_dropout_prob": "dropout",
        "attn_dropout_prob": "attention_dropout",
        "hidden_act": "activation",
        "layer_norm_eps": "layer_norm_eps",
        "initializer_range": "init_std",
    }
    return {ours: theirs[name] for name, ours in names.items()}


def transformer_weights(theirs: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Our names of the encoder's weights and positions, taken out of RecBole's; query, key and value are one matrix."""
    ours = {"positions": theirs.pop("position_embedding.weight")}
    for part in ("weight", "bias"):
        ours[f"enter.0.{part}"] = theirs.pop(f"LayerNorm.{part}")
        for layer in range(layers):
            old, new = f"trm_encoder.layer.{layer}.", f"encoder.{layer}."
            projections = [theirs.pop(f"{old}multi_head_attention.{name}.{part}") for name in ("query", "key", "value")]
            ours[f"{new}self_attn.in_proj_{part}"] = torch.cat(projections)
            ours |= {
                f"{new}self_attn.out_proj.{part}": theirs.pop(f"{old}multi_head_attention.dense.{part}"),
                f"{new}norm1.{part}": theirs.pop(f"{old}multi_head_attention.LayerNorm.{part}"),
                f"{new}linear1.{part}": theirs.pop(f"{old}feed_forward.dense_1.{part}"),
                f"{new}linear2.{part}": theirs.pop(f"{old}feed_forward.dense_2.{part}"),
                f"{new}norm2.{part}": theirs.pop(f"{old}feed_forward.LayerNorm.{part}"),
            }
    return ours
