"""Records the outputs of RecBole's models, for the parity tests in tests/ctr/zoo.

    .cache/deepfm-peers/bin/python tools/parity/record.py      # the environment that tools/bench/deepfm.py makes

RecBole is too heavy for the test environment. Each model is small and has random weights. `tests/ctr/parity/NAME`
holds, indices being the same on both sides and padding 0 among them:

- `model.NAME`: weights and running statistics under RecBole's names;
- `fields.NAME` and `first.NAME`: a field's rows of the embedding table and of the first-order table;
- `input.NAME`: rows as our index tensors;
- `logit`: the output; `penalty`: what the loss adds to the cross-entropy; DIEN: `negatives` and the `auxiliary` loss.

Items of DIN and DIEN have no features but their ids. RecBole's DIN leaves user features out of its tower, so its file
has items alone. Every history of theirs has at least one item, since RecBole packs them.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

for missing, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    setattr(np, missing, kind)  # names that RecBole uses and that numpy 2 removed

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.model.sequential_recommender import DIEN, DIN, BERT4Rec, Caser, GRU4Rec, SASRec  # noqa: E402
from recbole.utils import FeatureType, get_model  # noqa: E402

OUT = Path(__file__).parents[2] / "tests" / "ctr" / "parity"
SMALL = {"embedding_size": 4, "mlp_hidden_size": [6, 5], "dropout_prob": 0.0}
NAMES = {
    "USER_ID_FIELD": "user",
    "ITEM_ID_FIELD": "target",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "length",
    "NEG_PREFIX": "neg_",
    "MASK_ITEM_SEQ": "mask_item_seq",
    "POS_ITEMS": "pos_items",
    "NEG_ITEMS": "neg_items",
    "MASK_INDEX": "mask_index",
    "LABEL_FIELD": "label",
    "device": "cpu",
    "loss_type": "CE",
}
HISTORY = 5


def save(name: str, model: nn.Module, tensors: dict[str, Tensor], **about: str) -> None:
    for key, tensor in model.state_dict().items():
        if "embedding_table" not in key and not key.endswith("num_batches_tracked"):
            tensors[f"model.{key}"] = tensor
    copies = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    about["made by"] = f"RecBole {version('recbole')}, tools/parity/record.py"
    save_file(copies, OUT / f"{name}.safetensors", about)
    print(name, tensors["logit"].std().item())


def draw_weights(model: nn.Module, generator: torch.Generator, scale: float) -> None:
    """Draw every parameter and running statistic, of visible size."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) * scale
            tensor.data.copy_(drawn.abs() + 0.3 if name.endswith("running_var") else drawn)


# --- context-aware models

FIELDS = {"user_id": "user", "item_id": "target", "age": "user_age", "genres": "target_genres"}
CONTEXT: dict[str, tuple[str, dict[str, Any]]] = {
    "FM": ("FM", {}),
    "DSSM": ("DSSM", {}),
    "DeepFM": ("DeepFM", {}),
    "PNN": ("PNN", {"use_inner": True, "use_outer": True, "reg_weight": 0.1}),
    "xDeepFM": ("xDeepFM", {"cin_layer_size": [8, 6, 4]}),
    "xDeepFM-direct": ("xDeepFM", {"cin_layer_size": [5, 3], "direct": True}),
    "AutoInt": ("AutoInt", {"attention_size": 6, "n_layers": 2, "has_residual": True, "dropout_probs": [0.0] * 3}),
    "FiGNN": ("FiGNN", {"attention_size": 6, "n_layers": 3, "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    "DCN": ("DCN", {"cross_layer_num": 3}),
    "DCNv2": ("DCNV2", {"cross_layer_num": 2, "structure": "stacked"}),
    "DCNv2-parallel": ("DCNV2", {"cross_layer_num": 2, "structure": "parallel"}),
    "DCNv2-mixed": (
        "DCNV2",
        {"cross_layer_num": 2, "structure": "parallel", "mixed": True, "expert_num": 3, "low_rank": 2},
    ),
}


def write_data(folder: Path) -> None:
    """Write RecBole's atomic files: 9 users, 12 items, ages, genres."""
    draw = np.random.default_rng(0)
    genres = [" ".join(f"g{g}" for g in draw.choice(5, 1 + i % 3, replace=False)) for i in range(12)]
    rows = [f"u{u}\ti{i}\t{(u + i) % 2}" for u in range(9) for i in range(12)]
    files = {
        "inter": ["user_id:token\titem_id:token\tlabel:float", *rows],
        "user": ["user_id:token\tage:token", *(f"u{u}\ta{u % 4}" for u in range(9))],
        "item": ["item_id:token\tgenres:token_seq", *(f"i{i}\t{said}" for i, said in enumerate(genres))],
    }
    (folder / "tiny").mkdir()
    for kind, lines in files.items():
        (folder / "tiny" / f"tiny.{kind}").write_text("\n".join(lines) + "\n")


def record_context(name: str, data: Path, rows: int = 16) -> None:
    """Record a model on RecBole's own dataset class."""
    base, options = CONTEXT[name]
    settings = {
        "data_path": str(data),
        "load_col": {
            "inter": ["user_id", "item_id", "label"],
            "user": ["user_id", "age"],
            "item": ["item_id", "genres"],
        },
        "LABEL_FIELD": "label",
        "train_neg_sample_args": None,
        "use_gpu": False,
        "state": "ERROR",
        **SMALL,
        **options,
    }
    config = Config(model=base, dataset="tiny", config_dict=settings)
    dataset = create_dataset(config)
    dataset._change_feat_format()  # from pandas to tensors, as its build does
    model = get_model(base)(config, dataset).eval()
    draw_weights(model, torch.Generator().manual_seed(0), 0.4)

    joined = dataset.join(dataset.inter_feat)
    chosen = torch.arange(0, len(joined), len(joined) // rows)[:rows]
    batch = Interaction({field: joined[field][chosen] for field in (*FIELDS, "label")})
    last: list[Tensor] = []
    if base == "DCNV2":  # returns a probability
        model.predict_layer.register_forward_hook(lambda module, args, out: last.append(out.squeeze(1)))
    with torch.no_grad():
        answer = model.forward(batch)
        logit = last[0] if last else answer
        penalty = model.calculate_loss(batch) - F.binary_cross_entropy_with_logits(logit, batch["label"])
    tensors = {f"input.{ours}": batch[theirs] for theirs, ours in FIELDS.items()}
    tensors |= {"logit": logit, "penalty": penalty}
    for part, layer in (("fields", model), ("first", model.first_order_linear)):
        sizes = [dataset.num(field) for field in model.token_field_names]
        tables = [*layer.token_embedding_table.embedding.weight.split(sizes)]
        tables += [table.weight for table in layer.token_seq_embedding_table]
        names = [*model.token_field_names, *model.token_seq_field_names]
        tensors |= {f"{part}.{FIELDS[field]}": table for field, table in zip(names, tables, strict=True)}
    order = [FIELDS[field] for field in (*model.token_seq_field_names, *model.token_field_names)]  # in its own order
    save(name, model, tensors, fields=" ".join(order))


# --- models of interest

SIZES = {"user": 8, "user_age": 5, "user_tags": 6, "target": 12}
INTEREST = {
    **(NAMES | SMALL),
    "MAX_ITEM_LIST_LENGTH": HISTORY,
    "numerical_features": [],
    "pooling_mode": "mean",
    "gru_type": "AUGRU",
    "alpha": 1.0,
}


def record_interest(base: type[nn.Module], fields: list[str], rows: int = 14) -> None:
    """Record DIN or DIEN on histories of all lengths; users have a token and a list of tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(1, size, shape, generator=generator)

    count = SIZES["user"]
    tags = draw(SIZES["user_tags"], count, 3)
    tags[torch.arange(3) >= torch.randint(0, 4, (count, 1), generator=generator)] = 0
    users = {"user": torch.arange(count), "user_age": draw(SIZES["user_age"], count), "user_tags": tags}
    dataset = SimpleNamespace(
        config=INTEREST,
        field2type=dict.fromkeys(SIZES, FeatureType.TOKEN) | {"user_tags": FeatureType.TOKEN_SEQ},
        num=SIZES.__getitem__,
        get_user_feature=lambda: Interaction(users),
        get_item_feature=lambda: Interaction({"target": torch.arange(SIZES["target"])}),
    )
    length = torch.arange(rows) % HISTORY + 1
    there = torch.arange(HISTORY) < length[:, None]
    user, target = draw(SIZES["user"], rows), draw(SIZES["target"], rows)
    history, liked = draw(SIZES["target"], rows, HISTORY) * there, draw(3, rows, HISTORY) * there
    negatives = draw(SIZES["target"], rows, HISTORY) * there
    model: Any = base(INTEREST, dataset).eval()
    draw_weights(model, generator, 1.0)

    inputs = {name: values[user] for name, values in users.items()}
    inputs |= {"target": target, "history": history, "history_liked": liked}
    tensors = {f"input.{name}": inputs[name] for name in (*fields, "history", "history_liked")}
    with torch.no_grad():
        if base is DIEN:
            tensors["negatives"] = negatives
            tensors["logit"], tensors["auxiliary"] = model(user, history, negatives, length, target)
        else:
            tensors["logit"] = model(user, history, length, target)
    tables = model.embedding_layer
    for kind in ("user", "item"):
        weight = tables.token_embedding_table[kind].embedding.weight
        names = [*tables.token_field_names[kind], *tables.token_seq_field_names[kind]]
        parts = [*weight.split(tables.token_field_dims[kind])]
        parts += [table.weight for table in tables.token_seq_embedding_table[kind]]
        tensors |= {f"fields.{name}": part for name, part in zip(names, parts, strict=True) if name in fields}
    save(base.__name__.lower(), model, tensors, fields=" ".join(fields))


# --- sequential models

USERS, ITEMS = 7, 11
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
SEQUENTIAL: dict[type[nn.Module], dict[str, Any]] = {
    Caser: {"embedding_size": 6, "nv": 2, "nh": 3, "dropout_prob": 0.4, "reg_weight": 0.01},
    GRU4Rec: {"embedding_size": 6, "hidden_size": 9, "num_layers": 2, "dropout_prob": 0.3},
    SASRec: TRANSFORMER,
    BERT4Rec: TRANSFORMER | {"mask_ratio": 0.2},
}


def randomise(model: nn.Module) -> None:
    """Draw weights of visible size. Padding rows, which RecBole draws at random, become the zeros they stand for."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
            if isinstance(module, nn.LayerNorm):  # small ones would silence the layers before them
                module.weight.add_(1)


def record_sequential(kind: type[nn.Module], rows: int = 12) -> None:
    """Record a model on histories of all lengths, padded at their end."""
    torch.manual_seed(0)
    shortest = 0 if kind in (Caser, BERT4Rec) else 1  # the others index a state before the first
    lengths = torch.arange(rows) % (HISTORY + 1 - shortest) + shortest
    history = torch.randint(1, ITEMS, (rows, HISTORY)) * (torch.arange(HISTORY) < lengths[:, None])
    user, target = torch.randint(1, USERS, (rows,)), torch.randint(1, ITEMS, (rows,))
    theirs = history
    if kind is BERT4Rec:  # it drops the oldest item of each history to make room for the mask: this one
        theirs = torch.cat([torch.ones(rows, 1, dtype=torch.int64), history], dim=1)
    options = SEQUENTIAL[kind]
    dataset = SimpleNamespace(num={"user": USERS, "target": ITEMS}.get, user_num=USERS)
    model: Any = kind(NAMES | options | {"MAX_ITEM_LIST_LENGTH": theirs.shape[1]}, dataset).eval()
    randomise(model)
    batch = {"user": user, "target": target, "target_list": theirs, "length": (theirs != 0).sum(1)}
    tensors = {"input.history": history, "input.user": user, "input.target": target}
    with torch.no_grad():
        tensors["logit"] = model.predict(batch)
        if kind is Caser:  # what training adds to the cross-entropy over all items
            tensors["penalty"] = model.calculate_loss(batch) - F.cross_entropy(model.full_sort_predict(batch), target)
    save(kind.__name__, model, tensors, options=json.dumps(options))


if __name__ == "__main__":
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for name in CONTEXT:
            record_context(name, Path(folder))
    record_interest(DIN, ["target"])
    record_interest(DIEN, ["user", "target", "user_age", "user_tags"])
    for model in SEQUENTIAL:
        record_sequential(model)
