"""The peers that deepfm.py times: RecBole, FuxiCTR, deepctr-torch and torch-rechub, each in a process of its own.

Each peer is a function that sets up and returns two others: train an epoch, and score the test rows. They run their own
loaders and training loops in their own environment, and import nothing of expctr.

    python -m tools.bench.deepfm_peers PEER FOLDER    # deepfm.py starts it and writes to its standard input
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.bench.turns import Turn, channel

BATCH, DIM, MLP, DROPOUT, LR = 2048, 10, [128, 128, 128], 0.2, 1e-3
Rows = dict[str, Any]
Peer = tuple[Callable[[], Any], Callable[[], Any]]


def rows(folder: Path, split: str) -> tuple[Rows, Any]:
    """Return a split's index arrays by field, `[rows]` or `[rows, values]`, and its labels."""
    arrays = dict(np.load(folder / f"{split}.npz"))
    return arrays, arrays.pop("label")


def sizes(folder: Path) -> dict[str, int]:
    """Return the number of rows of each field's embedding table."""
    found: dict[str, int] = json.loads((folder / "sizes.json").read_text())
    return found


def recbole(folder: Path) -> Peer:
    """RecBole's Trainer on its own dataset class. All fields are in the ratings file, which saves joins."""
    for old, new in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        setattr(np, old, new)  # it uses names that numpy 2 removed
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.context_aware_recommender.deepfm import DeepFM
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    data = folder / "recbole"
    data.mkdir(exist_ok=True)
    for split in ("train", "val", "test"):
        fields, label = rows(folder, split)
        kinds = [f"{name}:token{'_seq' if values.ndim == 2 else ''}" for name, values in fields.items()]
        columns = [
            [" ".join(str(i) for i in row if i) for row in values] if values.ndim == 2 else values.astype(str)
            for values in fields.values()
        ]
        lines = ["\t".join([*kinds, "label:float"])]
        lines += ["\t".join(map(str, line)) for line in zip(*columns, label, strict=True)]
        (data / f"recbole.{split}.inter").write_text("\n".join(lines) + "\n")
    options = {
        "data_path": str(folder),
        "benchmark_filename": ["train", "val", "test"],
        "load_col": {"inter": [*fields, "label"]},
        "USER_ID_FIELD": "user",
        "ITEM_ID_FIELD": "target",
        "LABEL_FIELD": "label",
        "threshold": None,
        "embedding_size": DIM,
        "mlp_hidden_size": MLP,
        "dropout_prob": DROPOUT,
        "learning_rate": LR,
        "train_batch_size": BATCH,
        "eval_batch_size": BATCH,
        "eval_args": {"mode": "labeled", "order": "RO", "group_by": None, "split": {"RS": [0.8, 0.1, 0.1]}},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "train_neg_sample_args": None,
        "use_gpu": False,
        "show_progress": False,
        "checkpoint_dir": str(folder / "saved"),
    }
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    config = Config(model="DeepFM", dataset="recbole", config_dict=options)
    init_seed(0, True)
    train, _, test = data_preparation(config, create_dataset(config))
    model = DeepFM(config, train.dataset)
    trainer = Trainer(config, model)
    epochs = iter(range(1_000_000))

    def score() -> Any:
        model.eval()
        with torch.no_grad():
            parts = [(model.predict(batch[0]), batch[0]["label"]) for batch in test]
        return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))

    return lambda: trainer._train_epoch(train, next(epochs)), score


def fuxictr(folder: Path) -> Peer:
    """FuxiCTR's training loop and loader. Its wheel has no DeepFM, so this one is built from its layers."""
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader
    from fuxictr.pytorch.layers import FactorizationMachine, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    fields, _ = rows(folder, "train")
    features = FeatureMap("fuxictr", str(folder))
    for name, size in sizes(folder).items():
        spec: dict[str, Any] = {"source": "", "type": "categorical", "vocab_size": size}
        if fields[name].ndim == 2:
            spec |= {"type": "sequence", "max_len": fields[name].shape[1], "padding_idx": 0}
            spec |= {"feature_encoder": "layers.MaskedAveragePooling()"}
        features.features[name] = spec
    features.labels, features.num_fields = ["label"], len(features.features)
    features.set_column_index()

    class DeepFM(BaseModel):  # type: ignore[misc,no-any-unimported]
        def __init__(self) -> None:
            super().__init__(features, model_root=str(folder), metrics=["AUC"], verbose=0)
            self.embedding_layer = FeatureEmbedding(features, DIM)
            self.fm = FactorizationMachine(features)
            self.mlp = MLP_Block(len(features.features) * DIM, MLP, output_dim=1, dropout_rates=DROPOUT)
            self.compile("adam", "binary_crossentropy", LR)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: Any) -> Any:
            fields = self.get_inputs(inputs)
            vectors = self.embedding_layer(fields)
            return {"y_pred": self.output_activation(self.fm(fields, vectors) + self.mlp(vectors.flatten(1)))}

    files = {f"{theirs}_data": str(folder / f"{ours}.npz") for theirs, ours in (("train", "train"), ("test", "test"))}
    train, _, test = RankDataLoader(features, batch_size=BATCH, num_workers=0, **files)
    torch.manual_seed(0)
    model = DeepFM()
    model._max_gradient_norm, model._total_steps, model._stop_training = 10.0, 0, False  # as its fit sets them
    model._eval_steps = 1_000_000_000
    return lambda: model.train_epoch(train), lambda: (model.predict(test), rows(folder, "test")[1])


def deepctr_torch(folder: Path) -> Peer:
    """The fit of deepctr-torch, one epoch per call."""
    from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat
    from deepctr_torch.models import DeepFM

    fields, label = rows(folder, "train")
    test, test_label = rows(folder, "test")
    columns = []
    for name, size in sizes(folder).items():
        column = SparseFeat(name, size, DIM)
        several = fields[name].ndim == 2
        columns.append(VarLenSparseFeat(column, fields[name].shape[1], "mean") if several else column)
    regular = dict.fromkeys(("l2_reg_linear", "l2_reg_embedding", "l2_reg_dnn"), 0.0)
    model = DeepFM(columns, columns, dnn_hidden_units=tuple(MLP), dnn_dropout=DROPOUT, seed=0, **regular)
    model.compile(torch.optim.Adam(model.parameters(), LR), "binary_crossentropy", metrics=[])
    return (
        lambda: model.fit(dict(fields), label, BATCH, epochs=1, verbose=0),
        lambda: (model.predict(dict(test), BATCH)[:, 0], test_label),
    )


def torch_rechub(folder: Path) -> Peer:
    """The CTRTrainer and DataGenerator of torch-rechub. No option turns off its batch normalisation."""
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DeepFM
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    parts = {split: rows(folder, split) for split in ("train", "val", "test")}
    features = [
        SequenceFeature(name, size, DIM, "mean", padding_idx=0)
        if parts["train"][0][name].ndim == 2
        else SparseFeature(name, size, DIM)
        for name, size in sizes(folder).items()
    ]
    torch.manual_seed(0)
    model = DeepFM(features, features, {"dims": MLP, "dropout": DROPOUT, "activation": "relu"})
    trainer = CTRTrainer(model, optimizer_params={"lr": LR, "weight_decay": 0.0}, model_path=str(folder))
    train, _, test = DataGenerator(*parts["train"]).generate_dataloader(*parts["val"], *parts["test"], batch_size=BATCH)
    return lambda: trainer.train_one_epoch(train), lambda: (np.array(trainer.predict(model, test)), parts["test"][1])


PEERS: dict[str, Callable[[Path], Peer]] = {
    "recbole": recbole,
    "fuxictr": fuxictr,
    "deepctr-torch": deepctr_torch,
    "torch-rechub": torch_rechub,
}


def serve(train: Callable[[], Any], score: Callable[[], Any]) -> None:
    """Train an epoch per turn, and save the scores where another command says."""

    def saved(path: str) -> str:
        np.savez(path, **dict(zip(("score", "label"), score(), strict=True)))
        return "scored"

    train()  # the first epoch is slower and does not count
    turn = Turn()
    while turn.wait(saved):
        train()


if __name__ == "__main__":
    channel()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve(*PEERS[sys.argv[1]](Path(sys.argv[2])))
