"""The fifteen ID models that the paper compares with (5.1.2), one file each."""

from expctr.ctr.zoo.autoint import AutoInt as AutoInt
from expctr.ctr.zoo.base import CTRBackbone as CTRBackbone
from expctr.ctr.zoo.base import DeepBackbone as DeepBackbone
from expctr.ctr.zoo.bert4rec import BERT4Rec as BERT4Rec
from expctr.ctr.zoo.caser import Caser as Caser
from expctr.ctr.zoo.dcn import DCN as DCN
from expctr.ctr.zoo.dcnv2 import DCNv2 as DCNv2
from expctr.ctr.zoo.deepfm import DeepFM as DeepFM
from expctr.ctr.zoo.dien import DIEN as DIEN
from expctr.ctr.zoo.din import DIN as DIN
from expctr.ctr.zoo.dssm import DSSM as DSSM
from expctr.ctr.zoo.fignn import FiGNN as FiGNN
from expctr.ctr.zoo.fm import FM as FM
from expctr.ctr.zoo.gru4rec import GRU4Rec as GRU4Rec
from expctr.ctr.zoo.pnn import PNN as PNN
from expctr.ctr.zoo.sasrec import SASRec as SASRec
from expctr.ctr.zoo.xdeepfm import xDeepFM as xDeepFM

ZOO: dict[str, type[CTRBackbone]] = {
    model.__name__: model
    for model in (
        *(FM, DSSM, DeepFM, AutoInt, PNN, xDeepFM, FiGNN, DCN, DCNv2),
        *(DIN, DIEN, Caser, GRU4Rec, SASRec, BERT4Rec),
    )
}
"""The models by name, in the paper's order."""
