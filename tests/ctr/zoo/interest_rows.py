"""What the tests of DIN and DIEN share: rows with histories, and RecBole's names of the parts that both models have."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from expctr.ctr.zoo.din import InterestBackbone
from expctr.data.features import Vocabulary

Model = TypeVar("Model", bound=InterestBackbone)

SIZES = {"user": 9, "target": 15, "user_age": 5, "target_genres": 6, "liked": 15, "disliked": 15}
VOCABULARY = Vocabulary(SIZES, {"liked": "target", "disliked": "target"}, history=5)
TEXT, ROWS = 7, 12
SMALL: dict[str, Any] = {"embedding_dim": 4, "mlp": (6, 5), "oov_rate": 0.0}


def features() -> dict[str, Tensor]:
    """Histories of every length from 0 to 5."""
    generator = torch.Generator().manual_seed(1)
    there = torch.arange(5) < (torch.arange(ROWS) % 6)[:, None]

    def draw(low: int, size: int, *shape: int) -> Tensor:
        return torch.randint(low, size, (ROWS, *shape), generator=generator)

    return {
        "user": draw(1, 9),
        "target": draw(2, 15),
        "user_age": draw(1, 5),
        "target_genres": draw(0, 6, 3),
        "liked": draw(0, 15, 4),
        "disliked": draw(0, 15, 4),
        "history": draw(2, 15, 5) * there,
        "history_liked": draw(1, 3, 5) * there,
    }


def shake(model: nn.Module) -> None:
    """Every weight of visible size, as after training; padding stays zero."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight))
        if isinstance(model, InterestBackbone):
            model.fields.weight[0] = model.past.marks.weight[0] = 0


def backbone(kind: type[Model], text_dim: int = 0, **options: Any) -> Model:
    """A small model in eval mode, with weights as after training."""
    model = kind(VOCABULARY, text_dim, **{**SMALL, **options})
    shake(model)
    return model.eval()


def perceptron_names(ours: str, peer: str, levels: int, step: int) -> dict[str, str]:
    """Linear layers, between which the peer has `step - 1` modules and we have one."""
    return {
        f"{ours}.{2 * level}.{kind}": f"{peer}.mlp_layers.{step * level + 1}.{kind}"
        for level in range(levels)
        for kind in ("weight", "bias")
    }


def shared_names(attention: str, dense: str) -> dict[str, str]:
    """RecBole's names by ours: the attention, the tower and the last layer."""
    names = perceptron_names("attention.score", f"{attention}.att_mlp_layers", 2, 3)
    for kind in ("weight", "bias"):
        names[f"attention.score.4.{kind}"] = f"{attention}.dense.{kind}"
        names[f"last.x.{kind}"] = f"{dense}.{kind}"
        for level in range(2):
            names[f"deep.layers.{level}.x.{kind}"] = f"dnn_mlp_layers.mlp_layers.{4 * level + 1}.{kind}"
    for kind in ("weight", "bias", "running_mean", "running_var"):
        for level in range(2):
            names[f"deep.norms.{level}.{kind}"] = f"dnn_mlp_layers.mlp_layers.{4 * level + 2}.{kind}"
    return names | {"past.marks.weight": "no marks"}
