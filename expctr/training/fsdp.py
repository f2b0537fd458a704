"""FSDP2 for all three stages: adapter, critic and CTR models in shards, their checkpoints for any number of ranks."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load

from expctr.modules.checks import check_weights
from expctr.training.sharded_loading import ShardPlanner, ShardReader, contents
from expctr.training.strategy import MultiDeviceStrategy

_TRAINED = StateDictOptions(ignore_frozen_params=True, cpu_offload=True, strict=False)


class ShardedStrategy(MultiDeviceStrategy, ModelParallelStrategy):
    """FSDP2 whose distributed checkpoints hold trained weights only.

    The stock checkpoint filtered to the adapter cannot be loaded, and the stock consolidated one resumes silently wrong
    on another number of ranks.
    """

    def __init__(self, data_parallel_size: int | Literal["auto"] = "auto") -> None:
        super().__init__(data_parallel_size, tensor_parallel_size=1, save_distributed_checkpoint=True)

    def setup_environment(self) -> None:
        """Let all devices share the weights, unless their number is given."""
        if self._data_parallel_size == "auto":  # which means the number of nodes to Lightning
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self.check_alike()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights, each rank its shard."""
        assert self.model is not None
        # not by torch's get_model_state_dict: it looks up all frozen names, and those of 8-bit scales lead nowhere
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint folder, made by any number of ranks."""
        assert self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        meta: dict[str, Any] = torch.load(path / "meta.pt", weights_only=True, map_location="cpu")
        assert self.lightning_module is not None
        self.lightning_module.on_load_checkpoint(meta)  # may refuse it, and say better why
        weights = {
            name.removeprefix("state_dict."): tuple(tensor.size)
            for name, tensor in contents(path).state_dict_metadata.items()
            if name.startswith("state_dict.") and isinstance(tensor, TensorStorageMetadata)
        }
        check_weights(self.lightning_module, weights)
        _load({"state_dict": self.lightning_module_state_dict()}, path)  # into the weights themselves
        for index, optimizer in enumerate(self.optimizers):
            name = f"optimizer_{index}"
            part = {name: get_optimizer_state_dict(self.model, optimizer, options=_TRAINED)}
            _load(part, path)
            set_optimizer_state_dict(self.model, optimizer, part[name], options=_TRAINED)
        return meta


def _load(state: dict[str, Any], path: Path) -> None:
    load(state, storage_reader=ShardReader(path), planner=ShardPlanner())
