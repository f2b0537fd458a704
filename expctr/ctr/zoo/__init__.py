"""The ID models of the paper's Table 1, one file each."""

from expctr.ctr.zoo.base import CTRBackbone, DeepBackbone
from expctr.ctr.zoo.deepfm import DeepFM

__all__ = ["ZOO", "CTRBackbone", "DeepBackbone", "DeepFM"]

ZOO: dict[str, type[CTRBackbone]] = {model.__name__: model for model in (DeepFM,)}
"""The models by name."""
