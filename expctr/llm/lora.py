"""LoRA: the adapter, whose layers compute in the base's dtype."""

import re
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from expctr.errors import UserError, first_line
from expctr.llm.architecture import decoder
from expctr.llm.cpu.linear import apply_linear
from expctr.llm.loading import LLMOptions

_ROUTED = {"experts", "router", "gate", "shared_expert_gate"}
"""Names of the parts of a mixture of experts that `all-linear` leaves out: a router's choice has no gradient, and
adapters of all experts would cost far more time than the few experts that a token uses."""
_LINEAR = (nn.Linear, Conv1D)
MAMBA = "falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"
"""Bases whose kernels read the weights of `out_proj` without calling it."""


class LoraLinear(Linear):
    """PEFT's LoRA layer, which adds its product to the base's in one matrix operation.

    Weights and their gradients stay in float32. PEFT's own layer casts each activation to float32 and back, and adds
    in separate passes; on a CPU that takes as long as the frozen layer itself.
    """

    by_rows = False
    """Is the result stored row by row? Some bases need that, and it takes a copy (`apply_linear`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        active = self.active_adapters
        if self.merged or args or kwargs or len(active) != 1 or self.lora_variant:
            return super().forward(x, *args, **kwargs)
        (name,) = active
        down, up = (cast(nn.Linear, factor[name]).weight for factor in (self.lora_A, self.lora_B))
        flat = x.reshape(-1, x.shape[-1])  # an in-place addition to a view makes autograd copy each gradient
        result = apply_linear(self.base_layer, flat)
        if self.by_rows:
            result = result.contiguous()
        if not self.disable_adapters:
            low = nn.functional.linear(flat, down.to(x.dtype))  # no dropout, which would break PPO's ratio
            result.addmm_(low, up.to(x.dtype).t(), alpha=self.scaling[name])
        return result.view(*x.shape[:-1], result.shape[-1])


def add_adapter(base: PreTrainedModel, options: LLMOptions, quantized: bool) -> PeftModel:
    """Add a fresh adapter to a frozen base, in evaluation mode, since dropout would break PPO's ratio.

    Raises:
        UserError: the base has no such layers, or the output layer would get an adapter.
    """
    targets = options.lora_targets
    _check_targets(base, targets)
    if targets == "all-linear" and _has_experts(base):
        targets = dense_layers(base)
    lora = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        target_modules=targets,
        exclude_modules=_excluded(base),
        task_type="CAUSAL_LM",
    )
    if not quantized:  # quantized layers are subclasses of nn.Linear, and get PEFT's own adapters
        lora._register_custom_module({nn.Linear: LoraLinear})
    try:
        model = get_peft_model(base, lora).eval()
    except ValueError as error:
        raise UserError(f"llm.lora_targets: {first_line(error)}. Fix: {_which_layers(base)}") from error
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            "llm.lora_targets names the output layer, which cannot have an adapter: policy, reference and scorer share "
            "it. Fix: name layers of the decoder, or choose all-linear"
        )
    return model


def _has_experts(base: PreTrainedModel) -> bool:
    """Is the base a mixture of experts?"""
    return any({"experts", "router"} & {*name.split(".")} for name, _ in base.named_modules())


def _linear_layers(base: PreTrainedModel) -> list[str]:
    """The names of the linear layers without the output layer."""
    output = base.get_output_embeddings()
    return [name for name, layer in base.named_modules() if isinstance(layer, _LINEAR) and layer is not output]


def dense_layers(base: PreTrainedModel) -> list[str]:
    """The linear layers of a mixture of experts that each token goes through, by name, without the output layer.

    PEFT takes some names for those of experts, also where a dense layer has them; such layers are left out, or the
    experts would get the adapter.
    """
    names = [name for name in _linear_layers(base) if not _ROUTED & {*name.split(".")}]
    config = LoraConfig(target_modules=names)
    convert_peft_config_for_transformers(config, base, None)
    return sorted(cast(set[str], config.target_modules))


def _check_targets(base: PreTrainedModel, targets: str | list[str]) -> None:
    """Refuse a name that matches no layer. PEFT does so only if none of the names matches one."""
    if isinstance(targets, str):
        try:
            re.compile(targets)  # PEFT reads a single text as a pattern
        except re.error as error:
            raise UserError(
                f"llm.lora_targets: {targets} is no pattern: {error}. Fix: {_which_layers(base)}"
            ) from error
        return
    names = [name for name, _ in base.named_modules()]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in names)]
    if unknown or not targets:
        found = f"{type(base).__name__} has no layer {unknown[0]}" if unknown else "no layer is named"
        raise UserError(f"llm.lora_targets: {found}. Fix: {_which_layers(base)}")


def _which_layers(base: PreTrainedModel) -> str:
    """What may be named: the linear layers of the decoder."""
    names = {name.rpartition(".")[2] for name in _linear_layers(base)}
    return f"name some of {', '.join(sorted(names))}; or choose all-linear"


def _excluded(base: PreTrainedModel) -> str | None:
    """A pattern of modules that get no adapter: those that see images or hear, and those that PEFT refuses."""
    found, text = [], decoder(base)
    if text is not base.base_model:
        (name,) = (name for name, module in base.named_modules() if module is text)
        found.append(rf"(?!{re.escape(name)}\.).*")
    if base.config.get_text_config().model_type in MAMBA:
        found.append(r".*\.out_proj")
    return "|".join(found) or None
