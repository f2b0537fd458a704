"""The zoo: DeepFM's terms, and the explanation's place in any model."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from tiny import KINDS, typed_samples
from torch import Tensor
from torch.nn import functional as F

from expctr.ctr.zoo import ZOO, DeepFM
from expctr.ctr.zoo.deepfm import pairwise_interactions
from expctr.data.batches import SampleTable
from expctr.data.features import FIRST, Features, Vocabulary
from expctr.metrics import ctr_metrics
from expctr.modules.ctr import CTRModule  # noqa: F401  configs/baseline.yaml names it

SIZES = {"user": 22, "target": 22, "genres": 6}
VOCABULARY = Vocabulary(SIZES, {"liked": "target"})
TEXT = 12
SEQUENTIAL = ("Caser", "GRU4Rec", "SASRec", "BERT4Rec")


def model(text_dim: int = TEXT, seed: int = 0, **options: Any) -> DeepFM:
    torch.manual_seed(seed)
    return DeepFM(VOCABULARY, text_dim, **options)


def features(batch: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(0, size, shape, generator=generator)

    return {
        "user": draw(22, batch),
        "target": draw(22, batch),
        "genres": draw(6, batch, 3),
        "liked": draw(22, batch, 4),
    }


def test_interactions_are_the_sum_over_all_pairs():
    vectors = torch.randn(4, 5, 3, dtype=torch.float64)
    pairs = [(vectors[:, i] * vectors[:, j]).sum(-1) for i, j in combinations(range(5), 2)]
    torch.testing.assert_close(pairwise_interactions(vectors), torch.stack(pairs).sum(0))


@pytest.mark.parametrize("fuse", ["input", "last"])
def test_without_explanation_it_is_the_model_without_text(fuse: str):
    fused, plain = model(fuse=fuse).eval(), model(text_dim=0, seed=1, fuse=fuse).eval()
    extra = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not extra.missing_keys
    assert len(extra.unexpected_keys) == 1
    expected = plain(features())
    assert torch.equal(fused(features(), torch.zeros(6, TEXT)), expected)
    assert torch.equal(fused(features(), None), expected)
    assert not torch.allclose(fused(features(), torch.randn(6, TEXT)), expected)


@pytest.mark.parametrize("fuse", ["input", "last"])
def test_fusion_is_a_linear_layer_over_the_concatenation(fuse: str):
    fused = model(fuse=fuse).eval()
    layer = fused.deep.layers[0] if fuse == "input" else fused.last
    x, z = torch.randn(6, layer.x.in_features), torch.randn(6, TEXT)
    joined = torch.cat([x, z / z.square().mean(1, keepdim=True).sqrt()], dim=1)
    weight = torch.cat([layer.x.weight, layer.z.weight], dim=1)
    torch.testing.assert_close(layer(x, z), F.linear(joined, weight, layer.x.bias))


def test_the_last_layer_sees_z_linearly_and_the_input_does_not():
    z = F.normalize(torch.randn(3, 6, TEXT), dim=-1)
    z[2] = F.normalize(z[0] + z[1], dim=-1)
    scale = (z[0] + z[1]).norm(dim=-1)
    for fuse, linear in (("last", True), ("input", False)):
        fused = model(fuse=fuse).eval()
        base = fused(features(), None)
        first, second, both = (fused(features(), part) - base for part in z)
        assert torch.allclose(first + second, both * scale, atol=1e-5) is linear


def test_messages_between_fields_need_two_of_them():
    with pytest.raises(ValueError, match=r"data\.fields must leave two or more"):
        ZOO["FiGNN"](Vocabulary({"target": 22}), 0)
    ZOO["FiGNN"](Vocabulary({"target": 22, "genres": 6}), 0)


def test_text_of_another_length_is_refused():
    with pytest.raises(ValueError, match="length 5 for a model built for 12"):
        model()(features(), torch.zeros(6, 5))
    with pytest.raises(ValueError, match="built for 0"):
        model(text_dim=0)(features(), torch.zeros(6, 5))


def test_options_reach_the_model():
    built = model(embedding_dim=4, mlp=(8, 6), dropout=0.5, oov_rate=0.0)
    assert built.fields.weight.shape == (1 + 21 + 21 + 5, 4 + 1)
    assert [layer.x.out_features for layer in built.deep.layers] == [8, 6]
    assert built.fields.oov_rate == 0
    assert built.deep.layers[0].dropout.p == 0.5
    with pytest.raises(ValueError, match=r"DeepFM\.dropout must be from 0 to 1, not 2"):
        model(dropout=2)


def test_deepfm_learns_an_interaction_that_no_single_field_shows():
    generator = torch.Generator().manual_seed(0)
    user, target = torch.randint(2, 22, (2, 6000), generator=generator)
    label = ((user + target) % 2).float()
    rows = {
        "user": user,
        "target": target,
        "genres": torch.randint(0, 6, (6000, 2), generator=generator),
        "liked": torch.randint(0, 22, (6000, 3), generator=generator),
    }
    net = model(text_dim=0, oov_rate=0.0)
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(120):
        chosen = slice(500 * (step % 10), 500 * (step % 10) + 500)
        loss = F.binary_cross_entropy_with_logits(net({k: v[chosen] for k, v in rows.items()}), label[chosen])
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        scores = net.eval()({k: v[5000:] for k, v in rows.items()}).sigmoid()
    assert ctr_metrics(scores, label[5000:])["auc"] > 0.95


def test_the_length_of_z_does_not_matter():
    fused, z = model().eval(), torch.randn(6, TEXT)
    torch.testing.assert_close(fused(features(), 10 * z), fused(features(), z))


RECBOLE: dict[str, dict[str, Any]] = {
    "FM": {"embedding_dim": 10},
    "DSSM": {"embedding_dim": 10, "mlp": (256, 256, 256), "dropout": 0.3},
    "DeepFM": {"embedding_dim": 10, "mlp": (128, 128, 128), "dropout": 0.2},
    "AutoInt": {"embedding_dim": 10, "mlp": (128, 128), "dropout": 0.2, "attention_dim": 16, "layers": 3, "heads": 2}
    | {"attention_dropout": 0.2, "residual": False},
    "PNN": {"embedding_dim": 10, "mlp": (128, 256, 128), "dropout": 0.0, "inner": True, "outer": False}
    | {"reg_weight": 0.0},
    "xDeepFM": {"embedding_dim": 10, "mlp": (128, 128, 128), "dropout": 0.2, "cin": (100, 100, 100), "direct": False}
    | {"reg_weight": 5e-4},
    "FiGNN": {"embedding_dim": 10, "attention_dim": 16, "layers": 2, "heads": 2, "dropout": 0.2}
    | {"attention_dropout": 0.2},
    "DCN": {"embedding_dim": 10, "mlp": (256, 256, 256), "dropout": 0.2, "cross_layers": 6, "reg_weight": 2.0},
    "DCNv2": {"embedding_dim": 16, "mlp": (768, 768), "dropout": 0.2, "cross_layers": 3, "structure": "stacked"}
    | {"experts": 0, "reg_weight": 2.0},
    "DIN": {"embedding_dim": 10, "mlp": (256, 256, 256), "dropout": 0.0},
    "DIEN": {"embedding_dim": 10, "mlp": (256, 256, 256), "dropout": 0.0, "alpha": 1.0},
    "Caser": {"embedding_dim": 64, "nv": 4, "nh": 8, "dropout": 0.4, "reg_weight": 1e-4},
    "GRU4Rec": {"embedding_dim": 64, "hidden": 128, "layers": 1, "dropout": 0.3},
    "SASRec": {"embedding_dim": 64, "layers": 2, "heads": 2, "inner": 256, "activation": "gelu", "dropout": 0.5}
    | {"attention_dropout": 0.5, "layer_norm_eps": 1e-12, "init_std": 0.02},
    "BERT4Rec": {"embedding_dim": 64, "layers": 2, "heads": 2, "inner": 256, "activation": "gelu", "dropout": 0.2}
    | {"attention_dropout": 0.2, "layer_norm_eps": 1e-12, "init_std": 0.02},
}


def baseline(*options: str) -> Any:
    """The model section of configs/baseline.yaml with more options, as the command line reads them."""
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "baseline.yaml").read_text())["model"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(L.LightningModule, "model")
    return parser.parse_args([f"--model={json.dumps(config)}", *options]).model


def test_every_model_is_checked_against_recbole():
    assert set(RECBOLE) == set(ZOO)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("option", ["--model.backbone", "--model.init_args.backbone"])
def test_a_baseline_has_recboles_defaults_whichever_model_is_named(option: str, name: str):
    model = baseline(f"{option}={name}").init_args
    assert model.backbone.class_path == f"expctr.ctr.zoo.{name}"
    found = vars(model.backbone.init_args)
    assert {key: found[key] for key in RECBOLE[name]} == RECBOLE[name]
    assert (found["oov_rate"], found["max_rows"], found.get("fuse", "input")) == (0.02, None, "input")  # ours
    assert (model.options.lr, model.options.monitor, model.options.patience) == (1e-3, "logloss", 3)


def test_a_baselines_options_come_after_its_name():
    model = baseline("--model.backbone=DIN", "--model.backbone.mlp=[64, 64]", "--model.options.lr=3.0e-4").init_args
    assert (model.backbone.init_args.mlp, model.backbone.init_args.dropout) == ((64, 64), 0.0)
    assert model.options.lr == 3e-4


def test_a_baseline_must_be_named():
    with pytest.raises(ArgumentError, match="required: backbone"):
        baseline()


@pytest.mark.parametrize("name", [name for name in ZOO if name not in SEQUENTIAL])
def test_every_model_of_fields_reads_the_counts_of_the_history(name: str):
    """The sequential models, which read nothing but the history and the target, see it themselves."""
    torch.manual_seed(0)
    counts = {"history_count": 12, "history_liked_count": 13, "history_liked_share": 23}
    sizes = SIZES | counts
    made = ZOO[name](Vocabulary(sizes, {"liked": "target"}, history=3), 0).eval()
    rows = features() | {field: torch.full((6,), 2) for field in counts}
    rows |= {"history": rows["liked"][:, :3], "history_liked": (rows["liked"][:, :3] > 0).long()}
    before = made(rows)
    for field in counts:
        assert (made(rows | {field: torch.full((6,), 3)}) != before).any(), field


@pytest.mark.parametrize("name", ZOO)
def test_every_model_trains_on_side_features_of_all_kinds(name: str):
    """The sequential models read nothing but the user, the target and the history, beside whatever else there is."""
    torch.manual_seed(0)
    features = Features.fit(typed_samples(), kinds=KINDS)
    batch = SampleTable.from_samples(typed_samples().filter(split="train"), features)
    made = ZOO[name](features.vocabulary, 0, oov_rate=0.0)
    loss = F.binary_cross_entropy_with_logits(made(batch.features), batch.label)
    loss.backward()
    assert loss.isfinite()
    for field in () if name in SEQUENTIAL else features.kinds:
        place = made.fields.layout()[field]
        rows = made.fields.weight.grad[place["start"] + FIRST : place["start"] + place["size"]]
        assert rows.abs().sum(1).gt(0).all(), f"{field}: no gradient of a value, or of missing ones"


def test_sequential_models_are_named_as_what_they_are():
    others = {name: model.title() for name, model in ZOO.items() if model.title() != name}
    assert others == {name: f"{name}-style" for name in SEQUENTIAL}
