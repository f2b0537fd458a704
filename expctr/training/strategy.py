"""Base class of the strategies for several devices."""

from typing import Any

from lightning.pytorch.strategies import ParallelStrategy

from expctr.distributed import all_gather_objects
from expctr.errors import UserError
from expctr.training.signals import ended_by_signals


class MultiDeviceStrategy(ParallelStrategy):
    """Training on several devices, with checkpoints whose saving fails on all ranks together."""

    def setup_environment(self) -> None:
        """Meet the other processes."""
        with ended_by_signals():
            super().setup_environment()

    def check_alike(self) -> None:
        """Refuse ranks with another strategy than rank 0, before these wait for each other in different ways.

        Raises:
            UserError: on all ranks, naming the first that differs.
        """
        first, *others = all_gather_objects(type(self).__name__)
        for rank, its in enumerate(others, 1):
            if its != first:
                raise UserError(
                    f"trainer.strategy is {its} on rank {rank} and {first} on rank 0. Fix: start all ranks with the "
                    "same options"
                )

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
