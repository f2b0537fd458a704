"""Plain data parallelism: each device holds all weights, and gradients are averaged."""

from lightning.pytorch.strategies import DDPStrategy

from expctr.training.strategy import MultiDeviceStrategy


class ReplicatedStrategy(MultiDeviceStrategy, DDPStrategy):
    """Lightning's DDP without torch's wrapper around the model.

    The wrapper would average gradients after each micro-batch, and expects one forward pass per backward pass, in which
    every trained weight takes part. The stages call `distributed.average_gradients` instead, once per optimizer step.
    Checkpoints are those of one device.
    """

    def __init__(self) -> None:
        """Take no arguments: those of Lightning's class are about the wrapper, and would do nothing."""
        super().__init__()

    def setup_distributed(self) -> None:
        """Meet the other processes, which must have the same strategy."""
        super().setup_distributed()
        self.check_alike()

    def configure_ddp(self) -> None:
        """Leave the model as it is: all ranks draw the same initial weights from the seed."""
