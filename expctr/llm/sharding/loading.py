"""How transformers loads a base: whole, or each rank only its own shard."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, DistributedConfig, PreTrainedConfig, PreTrainedModel

from expctr.errors import UserError
from expctr.llm.architecture import decoder_layers
from expctr.untrusted import printable

NOT_SHARDED = "give --config ddp in place of --config fsdp"
"""What else can be done."""


def load_complete(path: str, **settings: Any) -> PreTrainedModel:
    """Load a base, all of whose weights come from its files. `settings` are arguments of `from_pretrained`.

    transformers gives random weights to what the files lack, with no more than a line in the log.

    Raises:
        UserError: weights are missing.
    """
    logger = logging.getLogger("transformers.modeling_utils")
    logger.disabled = True  # its report of the same shows names as they are
    try:
        loaded = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **settings)
    finally:
        logger.disabled = False
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} others" if missing[1:] else ""
        raise UserError(
            f"llm.path: {path} lacks weights of {type(model).__name__}: {missing[0]}{more} would be random. Fix: "
            "download it again, or name a causal language model"
        )
    if unused := sorted(found["unexpected_keys"]):
        rank_zero_warn(
            f"llm.path: {path} has {len(unused)} weights that {type(model).__name__} does not use, such as "
            + printable(unused[0])
        )
    return model


def load_shards(
    path: str, config: PreTrainedConfig, mesh: DeviceMesh, dtype: torch.dtype, **settings: Any
) -> PreTrainedModel:
    """Load this rank's shards of the decoder layers, and all other weights whole.

    transformers shards a model while it loads it: it slices the files, and knows the names and layouts in checkpoints.
    But the adapter must be added before `fully_shard`, so the shards go as `DTensor`s into a new model, from which
    `sharding.fsdp.shard` takes them. The model cannot compute before that. The mesh has one dimension; `settings` are
    further arguments of `from_pretrained`.
    """
    shared = ("trust_remote_code", "revision", "attn_implementation")
    given = {name: settings[name] for name in shared if name in settings}
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, **given)
    listed = decoder_layers(model, NOT_SHARDED)
    layers = next(name for name, module in model.named_modules() if module is listed)
    sharing = DistributedConfig(fsdp_size=mesh.size(), fsdp_plan={f"{layers}.*": "free_full_weight"})
    with _device_as_local_rank() if mesh.device_type != "cpu" else nullcontext():
        loaded = load_complete(path, dtype=dtype, distributed_config=sharing, **settings)
    weights = {
        name: (weight if name.startswith(f"{layers}.") else cast(DTensor, weight).full_tensor()).detach()
        for name, weight in loaded.named_parameters()
    }
    model.generation_config = loaded.generation_config
    return fill(model, weights, loaded)


@contextmanager
def _device_as_local_rank() -> Iterator[None]:
    """Transformers loads onto the GPU of this number. SLURM does not set it, and ranks may use other GPUs."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(torch.accelerator.current_device_index())
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before


def fill(model: PreTrainedModel, weights: dict[str, Tensor], loaded: PreTrainedModel) -> PreTrainedModel:
    """Give a model without storage these weights, and the buffers of a loaded one."""
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for name, buffer in loaded.named_buffers():  # such as rotary frequencies, which are not in the state dict
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer)
    return model


def can_load_shards(config: PreTrainedConfig, mesh: DeviceMesh) -> bool:
    """Are there several ranks, on the kind of device that transformers would choose, and is the base in floats?"""
    accelerator = torch.accelerator.current_accelerator()
    if mesh.size() == 1 or mesh.device_type != (accelerator.type if accelerator else "cpu"):
        return False
    return getattr(config, "quantization_config", None) is None
