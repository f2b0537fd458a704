"""The ID models of the paper's Table 1, one file each."""

from expctr.ctr.zoo.autoint import AutoInt
from expctr.ctr.zoo.base import CTRBackbone, DeepBackbone
from expctr.ctr.zoo.dcn import DCN
from expctr.ctr.zoo.dcnv2 import DCNv2
from expctr.ctr.zoo.deepfm import DeepFM
from expctr.ctr.zoo.dssm import DSSM
from expctr.ctr.zoo.fignn import FiGNN
from expctr.ctr.zoo.fm import FM
from expctr.ctr.zoo.pnn import PNN
from expctr.ctr.zoo.xdeepfm import xDeepFM

__all__ = [
    "DCN",
    "DSSM",
    "FM",
    "PNN",
    "ZOO",
    "AutoInt",
    "CTRBackbone",
    "DCNv2",
    "DeepBackbone",
    "DeepFM",
    "FiGNN",
    "xDeepFM",
]  # fmt: skip

ZOO: dict[str, type[CTRBackbone]] = {
    model.__name__: model for model in (FM, DSSM, DeepFM, AutoInt, PNN, xDeepFM, FiGNN, DCN, DCNv2)
}
"""The models by name, in the paper's order."""
