"""The fifteen ID models that the paper compares with (5.1.2), one file each."""

from expctr.ctr.zoo.autoint import AutoInt
from expctr.ctr.zoo.base import CTRBackbone, DeepBackbone
from expctr.ctr.zoo.bert4rec import BERT4Rec
from expctr.ctr.zoo.caser import Caser
from expctr.ctr.zoo.dcn import DCN
from expctr.ctr.zoo.dcnv2 import DCNv2
from expctr.ctr.zoo.deepfm import DeepFM
from expctr.ctr.zoo.dien import DIEN
from expctr.ctr.zoo.din import DIN
from expctr.ctr.zoo.dssm import DSSM
from expctr.ctr.zoo.fignn import FiGNN
from expctr.ctr.zoo.fm import FM
from expctr.ctr.zoo.gru4rec import GRU4Rec
from expctr.ctr.zoo.pnn import PNN
from expctr.ctr.zoo.sasrec import SASRec
from expctr.ctr.zoo.xdeepfm import xDeepFM

__all__ = [
    "DCN",
    "DIEN",
    "DIN",
    "DSSM",
    "FM",
    "PNN",
    "ZOO",
    "AutoInt",
    "BERT4Rec",
    "CTRBackbone",
    "Caser",
    "DCNv2",
    "DeepBackbone",
    "DeepFM",
    "FiGNN",
    "GRU4Rec",
    "SASRec",
    "xDeepFM",
]

ZOO: dict[str, type[CTRBackbone]] = {
    model.__name__: model
    for model in (
        *(FM, DSSM, DeepFM, AutoInt, PNN, xDeepFM, FiGNN, DCN, DCNv2),
        *(DIN, DIEN, Caser, GRU4Rec, SASRec, BERT4Rec),
    )
}
"""The models by name, in the paper's order."""
