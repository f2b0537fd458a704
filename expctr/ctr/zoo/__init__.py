"""The ID models by name, one file each."""

from collections.abc import Mapping

from expctr.ctr.zoo.base import BackboneOptions, CTRBackbone
from expctr.ctr.zoo.deepfm import DeepFM
from expctr.errors import UserError

__all__ = ["ZOO", "BackboneOptions", "CTRBackbone", "build"]

ZOO: dict[str, type[CTRBackbone]] = {"DeepFM": DeepFM}


def build(
    name: str, sizes: Mapping[str, int], shares: Mapping[str, str], options: BackboneOptions, text_dim: int = 0
) -> CTRBackbone:
    """A freshly initialised model, drawn from torch's global generator.

    Args:
        name: a key of `ZOO`.
        sizes: rows of each field's table, among them 0 (padding) and 1 (OOV).
        shares: fields that read another field's table.
        options: the model's shape.
        text_dim: length of the explanation's vector; 0 makes a model without text.

    Raises:
        UserError: no model has this name.
    """
    if name not in ZOO:
        raise UserError(f"no CTR model is called {name!r}; there are {', '.join(sorted(ZOO))}")
    return ZOO[name](sizes, shares, options, text_dim)
