"""The zoo: DeepFM's terms, and the explanation's place in any model."""

import inspect
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from expctr.ctr.cpu.dropout import Dropout
from expctr.ctr.zoo import ZOO, CTRBackbone, DeepFM
from expctr.ctr.zoo.deepfm import pairwise_interactions
from expctr.data.features import Vocabulary
from expctr.metrics import ctr_metrics

SIZES = {"user": 22, "target": 22, "genres": 6}
BASELINES = Path(__file__).parents[2] / "configs" / "baselines"
VOCABULARY = Vocabulary(SIZES, {"liked": "target"})
TEXT = 12


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


def test_dropout_drops_at_its_rate_keeps_the_mean_and_repeats_under_a_seed():
    drop, x = Dropout(0.2), torch.ones(401, 333)
    torch.manual_seed(0)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.8], abs=1e-4)
    for share in (out.eq(0), out.eq(0)[:, ::4], out[:, 1:].eq(0)[out[:, :-1].eq(0)]):  # also next to a dropped one
        assert share.float().mean().item() == pytest.approx(0.2, abs=0.01)
    torch.manual_seed(0)
    assert torch.equal(drop(x), out)
    assert torch.equal(drop.eval()(x), x)
    assert Dropout(0.0)(x).equal(x)
    assert Dropout(1.0)(x).eq(0).all()


def test_dropouts_gradient_is_its_own_mask():
    x = torch.ones(50, 7, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out)


@pytest.mark.parametrize("kind", ZOO.values(), ids=ZOO)
def test_baselines_state_their_models_own_defaults(kind: type[CTRBackbone]):
    config = yaml.safe_load((BASELINES / f"{kind.__name__.lower()}.yaml").read_text())
    stated = config["model"]["init_args"]["backbone"]
    assert stated["class_path"] == kind.__name__
    defaults: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        signature = inspect.signature(base.__init__).parameters if issubclass(base, CTRBackbone) else {}
        defaults |= {name: one.default for name, one in signature.items() if one.default is not one.empty}
    for name, value in stated["init_args"].items():
        assert (tuple(value) if isinstance(value, list) else value) == defaults[name], name
