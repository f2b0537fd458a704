"""Every trained weight of the zoo, the critic and the text's fusion can change the output.

Adam divides a gradient by its own size. A weight that cannot matter (a bias that a softmax or a batch normalisation
takes off again) has a gradient of rounding errors alone, of which Adam makes full steps. So such a weight is frozen.

The gradients are compared in float64 with weights and inputs of visible size: rounding leaves 1e-16 of the other
gradients there, and a weight that matters has far more than `VISIBLE` of them. The verdict is thus the same on every
processor.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expctr.ctr.embedding import FieldEmbeddings
from expctr.ctr.zoo import ZOO, CTRBackbone, DeepBackbone
from expctr.ctr.zoo.layers import SelfAttention
from expctr.data.features import Vocabulary
from expctr.llm.critic import ValueHead

ROWS, HISTORY, TEXT, DRAWS, VISIBLE = 256, 5, 7, 8, 1e-10
SIZES = {"user": 6, "target": 9, "user_age": 4, "target_genres": 5, "liked": 9, "disliked": 9}
VOCABULARY = Vocabulary(SIZES, {"liked": "target", "disliked": "target"}, history=HISTORY)
SMALL: dict[str, dict[str, Any]] = {
    "FM": {},
    "DSSM": {"mlp": (6, 5)},
    "DeepFM": {"mlp": (6, 5)},
    "AutoInt": {"mlp": (6, 5), "attention_dim": 6, "attention_dropout": 0.0},
    "PNN": {"mlp": (6, 5)},
    "xDeepFM": {"mlp": (6, 5), "cin": (4, 4)},
    "FiGNN": {"attention_dim": 6, "attention_dropout": 0.0},
    "DCN": {"mlp": (6, 5), "cross_layers": 2},
    "DCNv2": {"mlp": (6, 5), "cross_layers": 2, "rank": 2},
    "DIN": {"mlp": (6, 5)},
    "DIEN": {"mlp": (6, 5)},
    "Caser": {"nv": 2, "nh": 3},
    "GRU4Rec": {"hidden": 6},
    "SASRec": {"inner": 10, "attention_dropout": 0.0},
    "BERT4Rec": {"inner": 10, "attention_dropout": 0.0},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "FM": [{}, {"max_rows": 4}],
    "AutoInt": [{}, {"residual": True}, {"layers": 0}],
    "PNN": [{}, {"outer": True}, {"inner": False}, {"inner": False, "outer": True}],
    "xDeepFM": [{}, {"direct": True}],
    "FiGNN": [{"layers": layers} for layers in (1, 2, 3)],
    "DCNv2": [{"structure": place, "experts": count} for place in ("stacked", "parallel") for count in (0, 1, 3)],
    "DIEN": [{}, {"alpha": 0.0}],
    "GRU4Rec": [{}, {"layers": 2}],
    "SASRec": [{}, {"activation": "relu"}],
    "BERT4Rec": [{}, {"activation": "relu"}],
}


def cases() -> Iterator[Any]:
    """Every model with all values of the options that choose its parts, without text and with either fusion."""
    for name, kind in ZOO.items():
        texts = [(0, {}), (TEXT, {"fuse": "input"}), (TEXT, {"fuse": "last"})]
        for variant in VARIANTS.get(name, [{}]):
            for text_dim, fuse in texts if issubclass(kind, DeepBackbone) else [(0, {}), (TEXT, {})]:
                label = ", ".join([name, *(f"{key}={value}" for key, value in (variant | fuse).items())])
                yield pytest.param(name, text_dim, variant | fuse, id=label + ", text" * bool(text_dim))


def build(name: str, text_dim: int, vocabulary: Vocabulary = VOCABULARY, **options: Any) -> CTRBackbone:
    """A small model without chance in it."""
    options = {"embedding_dim": 4, "oov_rate": 0.0} | SMALL[name] | options
    return ZOO[name](vocabulary, text_dim, **options | ({} if name == "FM" else {"dropout": 0.0}))


Masks = dict[str, Tensor]
"""By name of a weight, which of its numbers are meant; bool."""


def trained_and_frozen(module: nn.Module) -> tuple[Masks, Masks]:
    """What is to be trained, and what the models freeze. Padding is neither."""
    trained, frozen = {}, {}
    for name, weight in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        trained[name] = torch.full_like(weight, weight.requires_grad, dtype=torch.bool)
        if isinstance(owner, SelfAttention) and name.endswith("in_proj_bias"):
            trained[name].view(3, -1)[1] = False  # the keys'
        frozen[name] = ~trained[name]
        if isinstance(owner, FieldEmbeddings | nn.Embedding):
            trained[name][0] = frozen[name][0] = False
    return trained, frozen


def shake(module: nn.Module, which: Masks, seed: int) -> None:
    """Change some numbers by visible amounts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.add_(0.4 * torch.randn(weight.shape, generator=generator, dtype=torch.float64) * which[name])


def features() -> dict[str, Tensor]:
    """Rows that read every index of every field, with histories of all lengths."""
    generator = torch.Generator().manual_seed(1)

    def draw(size: int, *shape: int) -> Tensor:
        return torch.randint(1, size, (ROWS, *shape), generator=generator)

    there = torch.arange(HISTORY) < (torch.arange(ROWS) % (HISTORY + 1))[:, None]
    rows = {name: draw(size, 3) if name.endswith(("genres", "liked")) else draw(size) for name, size in SIZES.items()}
    rows |= {"history": draw(SIZES["target"], HISTORY) * there, "history_liked": draw(3, HISTORY) * there}
    return rows


def check(make: Callable[[], nn.Module], outputs: Callable[[nn.Module], Tensor]) -> None:
    """Each number that is trained has a visible gradient; each that is frozen has none, and does not matter.

    A unit behind a ReLU may be 0, or never 0, in all rows, and some of its weights then do not matter. So each number
    is judged by the largest of its gradients over several draws of all weights.

    Args:
        make: makes the module in float64.
        outputs: its outputs, which contain no chance.
    """
    largest: dict[str, Tensor] = {}
    trained: Masks = {}
    for seed in range(DRAWS):
        module = make()
        trained, frozen = trained_and_frozen(module)
        shake(module, trained, seed)
        out = outputs(module)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        (out * weights).mean().backward()
        gradients = {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
            for name, weight in module.named_parameters()
        }
        scale = max(gradient.max() for gradient in gradients.values())
        for name, gradient in gradients.items():
            largest[name] = torch.maximum(largest.get(name, gradient), gradient / scale)
        moved = [name for name, gradient in gradients.items() if gradient[frozen[name]].any()]
        assert not moved, f"frozen, with a gradient: {moved}"
        shake(module, frozen, seed)
        torch.testing.assert_close(outputs(module), out, rtol=1e-9, atol=1e-9)
    idle = [name for name, ratio in largest.items() if (ratio[trained[name]] < VISIBLE).any()]
    assert not idle, f"trained, without effect: {idle}"


@pytest.mark.parametrize(("name", "text_dim", "options"), list(cases()))
def test_every_weight_of_the_zoo_matters(name: str, text_dim: int, options: dict[str, Any]):
    rows = features()
    text = torch.randn(ROWS, TEXT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def outputs(model: nn.Module) -> Tensor:
        assert isinstance(model, CTRBackbone)
        torch.manual_seed(4)  # DIEN draws negatives
        logits, penalty = model(rows, text if text_dim else None), model.penalty(rows)
        return logits if penalty is None else logits + penalty

    check(lambda: build(name, text_dim, **options).double().train(), outputs)


def test_of_two_fields_each_hears_the_other_alone():
    vocabulary = Vocabulary({"user": 6, "target": 9})
    rows = features()
    check(lambda: build("FiGNN", 0, vocabulary).double().train(), lambda model: model(rows))


def test_frozen_biases_begin_at_0():
    for name in ZOO:
        model = build(name, TEXT)
        _, frozen = trained_and_frozen(model)
        started = [part for part, weight in model.named_parameters() if weight[frozen[part]].any()]
        assert not [part for part in started if part.endswith("bias")], name


def test_every_weight_of_the_critic_matters():
    hidden = torch.randn(32, 7, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    # without its forward, which casts to float32
    check(lambda: ValueHead(6, width=5).double(), lambda head: head.layers(hidden).sum(-1))
    norm_and_first, labels = slice(0, 2), torch.arange(32.0, dtype=torch.float64)[:, None, None] % 2
    check(
        lambda: ValueHead(6, width=5, reads_label=True).double(),
        lambda head: head.layers[2:](head.layers[norm_and_first](hidden) + head.label(labels)).sum(-1),
    )


class Useless(nn.Module):
    """What the check is to find: a bias before a softmax (`scores`), one before a batch normalisation (`norm`)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores, self.norm = nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, 5, 4]` -> `[rows, 3]`."""
        out: Tensor = self.norm((self.scores(x).softmax(1) * x).sum(1))
        return out


def test_it_finds_weights_without_effect():
    x = torch.randn(64, 5, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def outputs(module: nn.Module) -> Tensor:
        out: Tensor = module(x)
        return out

    with pytest.raises(AssertionError, match=re.escape("without effect: ['scores.bias', 'norm.0.bias']")):
        check(lambda: Useless().double(), outputs)
