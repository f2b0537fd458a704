"""The progress bar, with the stage in front."""

from lightning.pytorch.callbacks import RichProgressBar

from expctr.modules.expctr import ExpCTRModule


class StageProgressBar(RichProgressBar):
    """Rich's bar with an ETA, and which of the plan's epochs and stages this is."""

    def _get_train_description(self, current_epoch: int) -> str:
        module = self.trainer.lightning_module
        if not isinstance(module, ExpCTRModule):
            return super()._get_train_description(current_epoch)
        return f"{module.entry.name} {module.entry.step + 1} ({current_epoch + 1}/{len(module.plan)})"
