"""Base class of the strategies for several devices."""

from typing import Any

from lightning.pytorch.strategies import ParallelStrategy

from expctr.training.signals import ended_by_signals


class MultiDeviceStrategy(ParallelStrategy):
    """Training on several devices, with checkpoints whose saving fails on all ranks together."""

    def setup_environment(self) -> None:
        """Meet the other processes."""
        with ended_by_signals():
            super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            OSError: on every rank, if rank 0 could not write what it alone writes; torch calls that a RuntimeError.
        """
        fault = ""
        try:
            super().save_checkpoint(checkpoint, filepath, storage_options)
        except (OSError, RuntimeError) as error:  # those of the shards are others, on all ranks already
            fault = str(error) or type(error).__name__
        if fault := self.broadcast(fault) or fault:
            raise OSError(fault)
