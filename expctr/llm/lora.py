"""LoRA: the adapter, whose layers compute in the base's dtype."""

import re
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from expctr.errors import UserError
from expctr.llm.architecture import decoder
from expctr.llm.cpu.linear import apply_linear
from expctr.llm.loading import LLMOptions

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
        UserError: the output layer would get an adapter.
    """
    lora = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        target_modules=options.lora_targets,
        exclude_modules=_excluded(base),
        task_type="CAUSAL_LM",
    )
    if not quantized:  # quantized layers are subclasses of nn.Linear, and get PEFT's own adapters
        lora._register_custom_module({nn.Linear: LoraLinear})
    try:
        model = get_peft_model(base, lora).eval()
    except ValueError as error:
        raise UserError(f"llm.lora_targets: {error}") from error
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise UserError(
            "llm.lora_targets names the output layer, which cannot have an adapter: policy, reference and scorer share "
            "it. Name layers of the decoder, or all-linear"
        )
    return model


def _excluded(base: PreTrainedModel) -> str | None:
    """A pattern of modules that get no adapter: those that see images or hear, and those that PEFT refuses."""
    found, text = [], decoder(base)
    if text is not base.base_model:
        (name,) = (name for name, module in base.named_modules() if module is text)
        found.append(rf"(?!{re.escape(name)}\.).*")
    if base.config.get_text_config().model_type in MAMBA:
        found.append(r".*\.out_proj")
    return "|".join(found) or None
