"""The models that cross fields: the same outputs as RecBole's with the same weights, and what each is made of."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from parity_files import Recorded
from torch import Tensor
from torch.nn import functional as F

from expctr.ctr.zoo import DCN, DSSM, FM, PNN, AutoInt, CTRBackbone, DCNv2, DeepFM, FiGNN, xDeepFM
from expctr.ctr.zoo.dcnv2 import Cross
from expctr.ctr.zoo.xdeepfm import CIN
from expctr.data.features import Vocabulary
from expctr.errors import UserError

TEXT, BIAS = 7, "first_order_linear.bias"
VOCABULARY = Vocabulary({"user": 9, "target": 9, "target_genres": 6}, {"liked": "target"})


def tower(name: str, peer: str, norm: bool = False, layers: int = 2) -> dict[str, str]:
    """Our names of a tower's weights, and RecBole's."""
    names, step = {}, 4 if norm else 3
    for i in range(layers):
        for kind in ("weight", "bias"):
            names[f"{name}.layers.{i}.x.{kind}"] = f"{peer}.mlp_layers.{1 + step * i}.{kind}"
        for kind in ("weight", "bias", "running_mean", "running_var") if norm else ():
            names[f"{name}.norms.{i}.{kind}"] = f"{peer}.mlp_layers.{2 + step * i}.{kind}"
    return names


def head(peer: str, bias: str = "") -> dict[str, str]:
    return {"last.x.weight": f"{peer}.weight", "last.x.bias": f"{peer}.bias{bias}"}


def same(**layers: str) -> dict[str, str]:
    return {f"{ours}.{kind}": f"{peer}.{kind}" for ours, peer in layers.items() for kind in ("weight", "bias")}


def attention(ours: str, peer: str) -> dict[str, str]:
    kinds = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    return {f"{ours}.{kind}": f"{peer}.{kind}" for kind in kinds}


def layers(peer: str, count: int) -> str:
    return "|".join(f"{peer}.{i}" for i in range(count))


MLP: dict[str, Any] = {"mlp": (6, 5), "embedding_dim": 4}
GNN = {f"graph.{i}.{ours}": f"gnn.{i}.{peer}" for i in range(2) for ours, peer in
       (("w_in", "W_in"), ("w_out", "W_out"), ("bias", "bias_p"))}  # fmt: skip
GATE = {f"gate.{kind}": f"gru_cell.{kind}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
CROSS = {"cross.weight": layers("cross_layer_w", 2), "cross.bias": layers("bias", 2)}
MIXED = {f"cross.{kind}": layers(f"cross_layer_{kind}", 2) for kind in "uvc"} | {
    "cross.bias": layers("bias", 2),
    "cross.gate.weight": "|".join(f"gating.{i}.weight" for i in range(3)),
    "cross.gate.bias": "|".join(f"gating.{i}.bias" for i in range(3)),
}
PARITY: dict[str, tuple[type[CTRBackbone], dict[str, Any], dict[str, str], list[str]]] = {
    "FM": (FM, {"embedding_dim": 4}, {"text.bias": BIAS}, []),
    "DSSM": (
        DSSM, MLP, tower("user", "user_mlp_layers", norm=True) | tower("item", "item_mlp_layers", norm=True), [BIAS],
    ),
    "DeepFM": (DeepFM, MLP, tower("deep", "mlp_layers") | head("deep_predict_layer", f"+{BIAS}"), []),
    "PNN": (
        PNN, MLP | {"outer": True, "reg_weight": 0.1},
        tower("deep", "mlp_layers") | head("predict_layer") | {"kernel": "outer_product.kernel"}, [BIAS],
    ),
    "xDeepFM": (
        xDeepFM, MLP | {"cin": (8, 6, 4)},
        tower("deep", "mlp_layers", layers=3)
        | same(**{f"cin.layers.{i}": f"conv1d_list.{i}" for i in range(3)})
        | {"cin_logit.weight": "cin_linear.weight", "cin_logit.bias": f"cin_linear.bias+{BIAS}"}, [],
    ),
    "xDeepFM-direct": (
        xDeepFM, MLP | {"cin": (5, 3), "direct": True},
        tower("deep", "mlp_layers", layers=3)
        | same(**{f"cin.layers.{i}": f"conv1d_list.{i}" for i in range(2)})
        | {"cin_logit.weight": "cin_linear.weight", "cin_logit.bias": f"cin_linear.bias+{BIAS}"}, [],
    ),
    "AutoInt": (
        AutoInt, MLP | {"attention_dim": 6, "layers": 2, "residual": True},
        tower("deep", "mlp_layers")
        | head("deep_predict_layer", f"+{BIAS}")
        | same(project="att_embedding", residual="v_res_embedding", attended="attn_fc")
        | attention("attention.0", "self_attns.0")
        | attention("attention.1", "self_attns.1"), [],
    ),
    "FiGNN": (
        FiGNN, {"embedding_dim": 4, "attention_dim": 6, "layers": 3},
        same(project="att_embedding", residual="v_res_embedding")
        | attention("attention", "self_attn") | GNN | GATE
        | {"edge.weight": "W_attn.weight", "node_score.weight": "mlp1.weight", "node_weight.weight": "mlp2.weight",
           "text.bias": BIAS}, [],
    ),
    "DCN": (
        DCN, MLP | {"cross_layers": 3},
        tower("deep", "mlp_layers", norm=True) | head("predict_layer")
        | {"cross_weight": layers("cross_layer_w", 3), "cross_bias": layers("cross_layer_b", 3)}, [BIAS],
    ),
    "DCNv2": (
        DCNv2, MLP | {"cross_layers": 2},
        tower("deep", "mlp_layers", norm=True) | head("predict_layer") | CROSS, [BIAS],
    ),
    "DCNv2-parallel": (
        DCNv2, MLP | {"cross_layers": 2, "structure": "parallel"},
        tower("deep", "mlp_layers", norm=True) | head("predict_layer") | CROSS, [BIAS],
    ),
    "DCNv2-mixed": (
        DCNv2, MLP | {"cross_layers": 2, "structure": "parallel", "experts": 3, "rank": 2},
        tower("deep", "mlp_layers", norm=True) | head("predict_layer") | MIXED, [BIAS],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARITY)
def test_recboles_weights_give_recboles_outputs(name: str) -> None:
    make, options, names, idle = PARITY[name]
    recorded = Recorded(name)
    model = make(recorded.vocabulary, **options).eval()
    assert isinstance(model, FM | DeepFM | DSSM | PNN | xDeepFM | AutoInt | FiGNN | DCN | DCNv2)
    with_first = model.fields.weight.shape[1] > 4
    recorded.fill(model.fields, *(("fields", "first") if with_first else ("fields",)))
    recorded.carry_over(model, names, idle)
    answer = model(recorded.features)
    if name == "FiGNN":  # it has the first-order part's bias, and does not use it
        answer = answer - recorded.weights[BIAS]
    torch.testing.assert_close(answer, recorded.logit, rtol=1e-5, atol=1e-5)
    assert recorded.logit.std() > 0.02  # so that a wrong wiring would show
    penalty = model.penalty(recorded.features)
    expected = recorded.tensors["penalty"]
    if isinstance(model, xDeepFM):  # RecBole adds the norms of two first-order tables, rows of padding among them
        first = recorded.part("first.")
        theirs = [torch.cat([first[name] for name in ("user", "target", "user_age")]), first["target_genres"]]
        expected = expected + 5e-4 * (model.fields.weight[:, -1].norm() - sum(table.norm() for table in theirs))
    torch.testing.assert_close(torch.zeros(()) if penalty is None else penalty, expected, rtol=1e-4, atol=1e-4)


SMALL: dict[type[CTRBackbone], dict[str, Any]] = {
    FM: {}, DSSM: {"mlp": (6, 5)}, DeepFM: {"mlp": (6, 5)}, PNN: {"mlp": (6, 5), "outer": True},
    xDeepFM: {"mlp": (6, 5), "cin": (4, 4)}, AutoInt: {"mlp": (6, 5), "residual": True}, FiGNN: {"layers": 3},
    DCN: {"mlp": (6, 5)}, DCNv2: {"mlp": (6, 5)},
}  # fmt: skip
PLACES = [
    pytest.param(make, options | fuse, id=f"{make.__name__}{''.join(fuse.values())}")
    for make, options in SMALL.items()
    for fuse in ([{"fuse": "input"}, {"fuse": "last"}] if "mlp" in options else [{}])
]


def features(rows: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw: Callable[..., Tensor] = lambda high, *shape: torch.randint(1, high, shape, generator=generator)  # noqa: E731
    return {
        "user": draw(9, rows),
        "target": draw(9, rows),
        "target_genres": draw(6, rows, 2),
        "liked": draw(9, rows, 3),
    }


@pytest.mark.parametrize(("make", "options"), PLACES)
def test_without_explanation_it_is_the_model_without_text(make: type[CTRBackbone], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    fused, plain = make(VOCABULARY, TEXT, **options).eval(), make(VOCABULARY, **options).eval()
    left = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not left.missing_keys
    assert len(left.unexpected_keys) == 1
    expected = plain(features())
    assert torch.equal(fused(features(), torch.zeros(8, TEXT)), expected)
    assert torch.equal(fused(features(), None), expected)
    assert not torch.allclose(fused(features(), torch.randn(8, TEXT)), expected)


@pytest.mark.parametrize(("make", "options"), PLACES)
def test_every_parameter_learns(make: type[CTRBackbone], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = make(VOCABULARY, TEXT, **options).train()
    loss = F.binary_cross_entropy_with_logits(model(features(), torch.randn(8, TEXT)), torch.arange(8) % 2.0)
    penalty = model.penalty(features())
    (loss if penalty is None else loss + penalty).backward()
    learnt = [(name, weight.grad) for name, weight in model.named_parameters() if weight.requires_grad]
    idle = [name for name, gradient in learnt if gradient is None or not gradient.any()]
    # a ReLU'd scalar that is 0 for all rows stops the tower
    assert not [name for name in idle if not (make is xDeepFM and name.startswith("deep"))]


def test_fm_adds_first_order_weights_and_all_pairs() -> None:
    model = FM(VOCABULARY, embedding_dim=3)
    fields = model.fields.eval()(features())
    pairs = sum((fields[:, i, :3] * fields[:, j, :3]).sum(1) for i, j in combinations(range(4), 2))
    torch.testing.assert_close(model.eval()(features()), fields[:, :, 3].sum(1) + pairs)


def test_dssm_is_a_cosine_of_two_sides_that_do_not_see_each_other() -> None:
    model, rows = DSSM(VOCABULARY, mlp=(6, 5)).eval(), features()
    assert model(rows).abs().max() <= 1
    said = {"user": [], "item": []}
    for side, layers_of in (("user", model.user), ("item", model.item)):
        layers_of.register_forward_hook(lambda module, args, out, side=side: said[side].append(out))
    model(rows)
    model(rows | {"target": rows["target"].flip(0), "target_genres": rows["target_genres"].flip(0)})
    assert torch.equal(*said["user"])
    assert not torch.allclose(*said["item"])
    with pytest.raises(UserError, match="DSSM needs a field of the user and one of the item"):
        DSSM(Vocabulary({"target": 5}))


def test_pnns_products_by_hand() -> None:
    model = PNN(Vocabulary({"user": 3, "target": 3}), embedding_dim=2, mlp=(1,), outer=True).eval()
    assert model.kernel is not None
    with torch.no_grad():
        model.fields.weight[2], model.fields.weight[4] = torch.tensor([1.0, 2]), torch.tensor([3.0, 4])
        model.kernel[:, 0] = torch.tensor([[1.0, 0], [2, 3]])
    seen: list[Tensor] = []
    model.deep.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model({"user": torch.tensor([2]), "target": torch.tensor([2])})
    # inner: 1*3 + 2*4; outer: sum over d, e of p_e K[d, e] q_d = 3 * (1*1 + 2*0) + 4 * (1*2 + 2*3)
    assert seen[0].tolist() == [[1, 2, 3, 4, 11, 35]]


def test_a_layer_of_the_interaction_network_by_hand() -> None:
    cin = CIN(2, [1], direct=True)
    with torch.no_grad():
        cin.weights[0].copy_(torch.tensor([[[1.0], [0], [10], [0]]]))
        cin.layers[0].bias.zero_()
    fields = torch.tensor([[[1.0, 2], [3, -4]]])
    # the maps weigh x1*x1 by 1 and x2*x1 by 10: (1 + 30, 4 - 80), and ReLU leaves the first
    assert cin(fields).tolist() == [[31]]
    assert CIN(3, [5, 4, 3], direct=False).out == 2 + 2 + 2


def test_a_cross_layer_by_hand() -> None:
    model = DCN(Vocabulary({"user": 3}), embedding_dim=2, mlp=(3,), cross_layers=1)
    with torch.no_grad():
        model.cross_weight.copy_(torch.tensor([[1.0, -1]]))
        model.cross_bias.copy_(torch.tensor([[0.5, 0]]))
    assert model.cross(torch.tensor([[3.0, 1]])).tolist() == [[3 * 2 + 0.5 + 3, 1 * 2 + 1]]
    cross = Cross(2, 1)
    with torch.no_grad():
        cross.weight.copy_(torch.tensor([[[1.0, 2], [0, 1]]]))
        cross.bias.copy_(torch.tensor([[0.0, -1]]))
    assert cross(torch.tensor([[3.0, 1]])).tolist() == [[3 * 5 + 3, 1 * (1 - 1) + 1]]
    assert cross.norm().item() == pytest.approx(6**0.5)


def test_no_node_hears_itself_and_equal_nodes_are_heard_alike() -> None:
    model = FiGNN(VOCABULARY).eval()
    edges = model.edges(torch.randn(1, 1, 16).expand(2, 4, 16))
    expected = (1 - torch.eye(4)) / 3
    torch.testing.assert_close(edges, expected.expand(2, 4, 4))
    torch.testing.assert_close(model.edges(torch.randn(2, 4, 16)).sum(-1), torch.ones(2, 4))


def test_fields_may_change_places_before_autoints_attention() -> None:
    """Attention has no positions: what a field gets does not depend on where the others stand."""
    model = AutoInt(VOCABULARY).eval()
    fields = model.project(torch.randn(2, 4, 10))
    for layer in model.attention:
        first, _ = layer(fields, fields, fields)
        moved, _ = layer(fields[:, [2, 0, 3, 1]], fields[:, [2, 0, 3, 1]], fields[:, [2, 0, 3, 1]])
        torch.testing.assert_close(moved, first[:, [2, 0, 3, 1]])


def test_a_batch_of_one_row_can_be_trained_on() -> None:
    model = DCN(VOCABULARY, mlp=(6, 5)).train()
    assert model(features(1)).isfinite().all()
