"""Records the outputs of RecBole's Caser, GRU4Rec, SASRec and BERT4Rec, for tests/ctr/zoo/test_*.py.

Small models with random weights. Each file holds `model.NAME`, the weights under RecBole's names, `input.NAME`, the
rows as our index tensors, `logit`, the output, and for Caser `penalty`, what its loss adds to the cross-entropy; its
metadata say RecBole's version and the options. Item and user indices are the same on both sides, padding 0 among them;
RecBole's padding rows, which it draws at random, are set to the zeros that they stand for.

Usage, in an environment with RecBole (tools/bench/deepfm_peers.txt) and safetensors:
    python tools/parity/sequential.py tests/ctr/parity
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    setattr(np, old, new)  # names that RecBole uses and that numpy 2 removed

from recbole.model.sequential_recommender import BERT4Rec, Caser, GRU4Rec, SASRec  # noqa: E402

USERS, ITEMS, HISTORY, ROWS = 7, 11, 5, 12
NAMES = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "item",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MASK_ITEM_SEQ": "mask_item_seq",
    "POS_ITEMS": "pos_items",
    "NEG_ITEMS": "neg_items",
    "MASK_INDEX": "mask_index",
    "device": "cpu",
    "loss_type": "CE",
}
TRANSFORMER = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 8,
    "inner_size": 12,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
MODELS: dict[type[nn.Module], dict[str, Any]] = {
    Caser: {"embedding_size": 6, "nv": 2, "nh": 3, "dropout_prob": 0.4, "reg_weight": 0.01},
    GRU4Rec: {"embedding_size": 6, "hidden_size": 9, "num_layers": 2, "dropout_prob": 0.3},
    SASRec: TRANSFORMER,
    BERT4Rec: TRANSFORMER | {"mask_ratio": 0.2},
}
READ_EMPTY = (Caser, BERT4Rec)  # the others index a state before the first


def randomise(model: nn.Module) -> None:
    """Draw weights of visible size."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
            if isinstance(module, nn.LayerNorm):  # small ones would silence the layers before them
                module.weight.add_(1)


def rows(shortest: int) -> dict[str, Tensor]:
    """Draw histories of all lengths, padded at their end."""
    lengths = torch.arange(ROWS) % (HISTORY + 1 - shortest) + shortest
    history = torch.randint(1, ITEMS, (ROWS, HISTORY)) * (torch.arange(HISTORY) < lengths[:, None])
    return {
        "history": history,
        "user": torch.randint(1, USERS, (ROWS,)),
        "target": torch.randint(1, ITEMS, (ROWS,)),
    }


def record(kind: type[nn.Module], options: dict[str, Any], folder: Path) -> None:
    """Write one model's file."""
    torch.manual_seed(0)
    ours = rows(shortest=0 if kind in READ_EMPTY else 1)
    theirs = ours["history"]
    if kind is BERT4Rec:  # it drops the oldest item of each history to make room for the mask: this one
        theirs = torch.cat([torch.ones(ROWS, 1, dtype=torch.int64), theirs], dim=1)
    dataset = SimpleNamespace(num={"user": USERS, "item": ITEMS}.get, user_num=USERS)
    model = kind(NAMES | options | {"MAX_ITEM_LIST_LENGTH": theirs.shape[1]}, dataset).eval()
    randomise(model)
    batch = {"user": ours["user"], "item": ours["target"], "item_list": theirs, "length": (theirs != 0).sum(1)}
    with torch.no_grad():
        tensors = {f"input.{name}": values for name, values in ours.items()} | {"logit": model.predict(batch)}
        if kind is Caser:  # what training adds to the cross-entropy over all items
            entropy = nn.functional.cross_entropy(model.full_sort_predict(batch), ours["target"])
            tensors["penalty"] = model.calculate_loss(batch) - entropy
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    about = {"made by": f"RecBole {version('recbole')}, tools/parity/sequential.py", "options": json.dumps(options)}
    save_file(tensors | weights, folder / f"{kind.__name__}.safetensors", about)


if __name__ == "__main__":
    for kind, options in MODELS.items():
        record(kind, options, Path(sys.argv[1]))
