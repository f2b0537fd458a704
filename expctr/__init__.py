"""ExpCTR: language-model explanations and click-through-rate prediction, trained together.

Public names are imported when they are first used, so that `import expctr` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expctr.ctr import zoo as zoo
    from expctr.data.datamodules import AmazonBooksDataModule as AmazonBooksDataModule
    from expctr.data.datamodules import BookCrossingDataModule as BookCrossingDataModule
    from expctr.data.datamodules import MovieLensDataModule as MovieLensDataModule
    from expctr.data.table import TableDataModule as TableDataModule
    from expctr.modules.ctr import CTRModule as CTRModule
    from expctr.modules.ctr import DeepFMTextModule as DeepFMTextModule
    from expctr.modules.expctr import ExpCTRModule as ExpCTRModule
    from expctr.modules.explainer import PPOExplainerModule as PPOExplainerModule
    from expctr.predictor import Predictor as Predictor
    from expctr.predictor import load as load
    from expctr.rl.rewards import ICAlignment as ICAlignment
    from expctr.rl.rewards import LCAlignment as LCAlignment
    from expctr.rl.rewards import LengthPenalty as LengthPenalty
    from expctr.rl.rewards import Reward as Reward
    from expctr.training.scheduler import StageScheduler as StageScheduler

__version__ = "0.2.0.dev0"

_MODULES = {
    "data.datamodules": ("AmazonBooksDataModule", "BookCrossingDataModule", "MovieLensDataModule"),
    "data.table": ("TableDataModule",),
    "modules.ctr": ("CTRModule", "DeepFMTextModule"),
    "modules.expctr": ("ExpCTRModule",),
    "modules.explainer": ("PPOExplainerModule",),
    "predictor": ("Predictor", "load"),
    "rl.rewards": ("ICAlignment", "LCAlignment", "LengthPenalty", "Reward"),
    "training.scheduler": ("StageScheduler",),
}
_MODULE_OF = {name: f"expctr.{module}" for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", "zoo", *_MODULE_OF]  # noqa: PLE0604  (the names in _MODULE_OF are strings)


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module("expctr.ctr.zoo")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'expctr' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
