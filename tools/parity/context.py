"""Records the outputs of RecBole's context-aware models, for the parity tests of the zoo.

    .cache/deepfm-peers/bin/python tools/parity/context.py      # the environment that tools/bench/deepfm.py makes

RecBole is too heavy for the test environment. Each model is made for the same tiny data, with all parameters drawn at
random so that none is zero. Its weights, inputs and outputs are written to `tests/ctr/parity/NAME.safetensors`:
`fields.NAME` and `first.NAME` are a field's rows of the embedding and first-order tables, `model.NAME` all other
parameters and running statistics under RecBole's names, `input.NAME` the indices, `logit` the output, and `penalty`
what the model's loss adds to the cross-entropy.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

for missing, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    setattr(np, missing, kind)  # names that RecBole uses and that numpy 2 removed

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import get_model  # noqa: E402

OUT = Path(__file__).parents[2] / "tests" / "ctr" / "parity"
FIELDS = {"user_id": "user", "item_id": "target", "age": "user_age", "genres": "target_genres"}
SMALL = {"embedding_size": 4, "mlp_hidden_size": [6, 5], "dropout_prob": 0.0}
MODELS = {
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
ROWS = 16


def write_data(folder: Path) -> None:
    """Write RecBole's atomic files: 9 users, 12 items, ages, genres."""
    draw = np.random.default_rng(0)
    rows = [f"u{u}\ti{i}\t{(u + i) % 2}" for u in range(9) for i in range(12)]
    files = {
        "inter": ["user_id:token\titem_id:token\tlabel:float", *rows],
        "user": ["user_id:token\tage:token", *(f"u{u}\ta{u % 4}" for u in range(9))],
        "item": [
            "item_id:token\tgenres:token_seq",
            *(f"i{i}\t{' '.join(f'g{g}' for g in draw.choice(5, 1 + i % 3, replace=False))}" for i in range(12)),
        ],
    }
    (folder / "tiny").mkdir()
    for kind, lines in files.items():
        (folder / "tiny" / f"tiny.{kind}").write_text("\n".join(lines) + "\n")


def draw_weights(model: torch.nn.Module) -> None:
    """Draw every parameter and running statistic, of visible size."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=generator) * 0.4
            tensor.data.copy_(drawn.abs() + 0.3 if name.endswith("running_var") else drawn)


def record(name: str, base: str, options: dict[str, object], data: Path) -> None:
    """Write one model's file."""
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
    sys.argv = sys.argv[:1]
    config = Config(model=base, dataset="tiny", config_dict=settings)
    dataset = create_dataset(config)
    dataset._change_feat_format()  # from pandas to tensors, as its build does
    model = get_model(base)(config, dataset).eval()
    draw_weights(model)

    joined = dataset.join(dataset.inter_feat)
    chosen = torch.arange(0, len(joined), len(joined) // ROWS)[:ROWS]
    batch = Interaction({field: joined[field][chosen] for field in (*FIELDS, "label")})
    last = []
    if base == "DCNV2":  # returns a probability
        model.predict_layer.register_forward_hook(lambda module, args, out: last.append(out.squeeze(1)))
    with torch.no_grad():
        answer = model.forward(batch)
        logit = last[0] if last else answer
        loss = model.calculate_loss(batch)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch["label"])

    tensors = {f"input.{ours}": batch[theirs] for theirs, ours in FIELDS.items()}
    for part, layer in (("fields", model), ("first", model.first_order_linear)):
        table, start = layer.token_embedding_table.embedding.weight, 0
        for field in model.token_field_names:
            size = dataset.num(field)
            tensors[f"{part}.{FIELDS[field]}"] = table[start : start + size]
            start += size
        for field, embedding in zip(model.token_seq_field_names, layer.token_seq_embedding_table, strict=True):
            tensors[f"{part}.{FIELDS[field]}"] = embedding.weight
    for key, tensor in model.state_dict().items():
        if "embedding_table" not in key and not key.endswith("num_batches_tracked"):
            tensors[f"model.{key}"] = tensor
    tensors |= {"logit": logit, "penalty": loss - cross_entropy}
    OUT.mkdir(parents=True, exist_ok=True)
    order = [FIELDS[field] for field in (*model.token_seq_field_names, *model.token_field_names)]  # in its own order
    about = {"made by": "RecBole 1.2.1, tools/parity/context.py", "fields": " ".join(order)}
    copies = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    save_file(copies, OUT / f"{name}.safetensors", about)
    print(name, logit.std().item(), (loss - cross_entropy).item())


def main() -> None:
    """Record all models."""
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for name, (base, options) in MODELS.items():
            record(name, base, options, Path(folder))


if __name__ == "__main__":
    main()
