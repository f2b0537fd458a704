"""The progress bar, with the stage in front."""

from lightning.pytorch.callbacks import RichProgressBar

from expctr.modules.staged import StagedModule


class StageProgressBar(RichProgressBar):
    """Rich's bar with an ETA, the stage, and the epoch of the plan."""

    def _get_train_description(self, current_epoch: int) -> str:
        module = self.trainer.lightning_module
        if not isinstance(module, StagedModule):
            return super()._get_train_description(current_epoch)
        return f"{module.entry.name} {module.entry.stage_epoch + 1} ({current_epoch + 1}/{len(module.plan)})"
