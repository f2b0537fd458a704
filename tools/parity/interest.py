"""Records the outputs of RecBole's DIN and DIEN, for tests/ctr/zoo/test_{din,dien}.py.

Small models with random weights. Each file holds `model.NAME`, the weights and running statistics under RecBole's
names; `fields.NAME`, a field's rows of its embedding table; `input.NAME`, the rows as our index tensors (indices are
the same on both sides, padding 0 among them); and `logit`. DIEN's also holds the drawn `negatives` and the `auxiliary`
loss.

Items have no features but their ids. RecBole's DIN leaves user features out of its tower, so its file has items alone;
DIEN's has users with a token and a list of tokens. Every history has at least one item, since RecBole packs them.

Usage, in an environment with RecBole (tools/bench/deepfm_peers.txt) and safetensors:
    python tools/parity/interest.py
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    setattr(np, old, new)  # names that RecBole uses and that numpy 2 removed

from recbole.data.interaction import Interaction  # noqa: E402
from recbole.model.sequential_recommender import DIEN, DIN  # noqa: E402
from recbole.utils import FeatureType  # noqa: E402

OUT = Path(__file__).parents[2] / "tests" / "ctr" / "parity"
SIZES = {"user": 8, "user_age": 5, "user_tags": 6, "target": 12}
HISTORY, ROWS = 5, 14
CONFIG = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "target",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": HISTORY,
    "LABEL_FIELD": "label",
    "device": "cpu",
    "numerical_features": [],
    "embedding_size": 4,
    "mlp_hidden_size": [6, 5],
    "dropout_prob": 0.0,
    "pooling_mode": "mean",
    "gru_type": "AUGRU",
    "alpha": 1.0,
}


class Users:
    """What the two models read from RecBole's dataset."""

    config = CONFIG
    field2type = dict.fromkeys(SIZES, FeatureType.TOKEN) | {"user_tags": FeatureType.TOKEN_SEQ}

    def __init__(self, generator: torch.Generator) -> None:
        count = SIZES["user"]
        tags = torch.randint(1, SIZES["user_tags"], (count, 3), generator=generator)
        tags[torch.arange(3) >= torch.randint(0, 4, (count, 1), generator=generator)] = 0
        self.features = {
            "user": torch.arange(count),
            "user_age": torch.randint(1, SIZES["user_age"], (count,), generator=generator),
            "user_tags": tags,
        }

    def num(self, field: str) -> int:
        """Number of rows of a field's table."""
        return SIZES[field]

    def get_user_feature(self) -> Interaction:
        """By user."""
        return Interaction(self.features)

    def get_item_feature(self) -> Interaction:
        """By item: its id."""
        return Interaction({"target": torch.arange(SIZES["target"])})


def draw_weights(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter and running statistic, of visible size."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator)
            tensor.data.copy_(drawn.abs() + 0.3 if name.endswith("running_var") else drawn)


def draw_rows(generator: torch.Generator) -> dict[str, Tensor]:
    """Draw users, targets and histories of all lengths."""
    lengths = torch.arange(ROWS) % HISTORY + 1
    there = torch.arange(HISTORY) < lengths[:, None]

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(1, size, (ROWS, *shape), generator=generator)

    return {
        "user": draw(SIZES["user"]),
        "target": draw(SIZES["target"]),
        "history": draw(SIZES["target"], HISTORY) * there,
        "history_liked": draw(3, HISTORY) * there,
        "negatives": draw(SIZES["target"], HISTORY) * there,
        "length": lengths,
    }


def record(base: type[nn.Module], fields: list[str]) -> None:
    """Write one model's file."""
    generator = torch.Generator().manual_seed(0)
    users, rows = Users(generator), draw_rows(generator)
    model: Any = base(CONFIG, users).eval()
    draw_weights(model, generator)

    inputs = {name: values[rows["user"]] for name, values in users.features.items()} | rows
    tensors = {f"input.{name}": inputs[name] for name in (*fields, "history", "history_liked")}
    with torch.no_grad():
        if base is DIEN:
            read = (rows[name] for name in ("user", "history", "negatives", "length", "target"))
            tensors["logit"], tensors["auxiliary"] = model(*read)
            tensors["negatives"] = rows["negatives"]
        else:
            tensors["logit"] = model(*(rows[name] for name in ("user", "history", "length", "target")))

    tables = model.embedding_layer
    for kind in ("user", "item"):
        weight = tables.token_embedding_table[kind].embedding.weight
        names = [*tables.token_field_names[kind], *tables.token_seq_field_names[kind]]
        parts = [*weight.split(tables.token_field_dims[kind])]
        parts += [table.weight for table in tables.token_seq_embedding_table[kind]]
        tensors |= {f"fields.{name}": part for name, part in zip(names, parts, strict=True) if name in fields}
    for name, tensor in model.state_dict().items():
        if not name.startswith("embedding_layer") and not name.endswith("num_batches_tracked"):
            tensors[f"model.{name}"] = tensor
    about = {"made by": f"RecBole {version('recbole')}, tools/parity/interest.py", "fields": " ".join(fields)}
    OUT.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(kept, OUT / f"{base.__name__.lower()}.safetensors", about)
    print(base.__name__, tensors["logit"].std().item(), list(kept))


if __name__ == "__main__":
    record(DIN, ["target"])
    record(DIEN, ["user", "target", "user_age", "user_tags"])
