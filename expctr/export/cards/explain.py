"""Writes a prompt and its explanation with transformers and PEFT alone. `expctr export` copied this file.

from explain import explain, load, write_prompt
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from expctr.llm.prompt_writer import PromptWriter

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = json.loads((HERE / "prompt.json").read_text(encoding="utf-8"))


def load(base: str | None = None, **options: Any) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load the base with its adapter, and the tokenizer.

    Args:
        base: a folder or hub id in place of the one in prompt.json.
        options: further arguments of `AutoModelForCausalLM.from_pretrained`, such as `device_map` or `dtype`.
    """
    name, source = base or SETTINGS["base"], {} if base else SETTINGS["source"]
    path = HERE / name if (HERE / name).is_dir() else name
    tokenizer = AutoTokenizer.from_pretrained(path, clean_up_tokenization_spaces=False, **source)
    model = AutoModelForCausalLM.from_pretrained(path, **{"dtype": SETTINGS["dtype"], **source, **options})
    model.generation_config = GenerationConfig(**SETTINGS["generation"])  # not the base's, which may change the logits
    return PeftModel.from_pretrained(model, HERE / "adapter").eval(), tokenizer


def write_prompt(tokenizer: PreTrainedTokenizerBase, liked: Sequence[str], disliked: Sequence[str], target: str) -> str:
    """The prompt for a person's titles, oldest first, and a target's title, with the chat template.

    The template holds the special tokens, so let no tokenizer or server add them again; a base without a chat template
    needs them.
    """
    writer, template = PromptWriter(tokenizer, **SETTINGS["prompt"]), SETTINGS["template"]
    _, likes, dislikes, title = writer.with_history(template, liked, disliked, target)
    return writer.in_template(writer.fill(template, liked=likes, disliked=dislikes, target=title))


@torch.no_grad()
def explain(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    liked: Sequence[str] = (),
    disliked: Sequence[str] = (),
    target: str = "",
) -> str:
    """The greedy explanation of what a person with these titles will think of the target, on one line."""
    prompt = write_prompt(tokenizer, liked, disliked, target)
    bare = tokenizer.chat_template is None
    ids = tokenizer(prompt, add_special_tokens=bare, return_tensors="pt").input_ids.to(model.device)
    invocation = model.active_peft_config.alora_invocation_tokens
    if invocation and ids[0, -1:].tolist() != invocation:
        raise ValueError(f"the prompt's last token is {ids[0, -1]}, but the adapter acts from {invocation} on")
    cache = None
    if SETTINGS["base_reads_prompt"]:  # all of it but the last token
        with model.disable_adapter():
            cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache)
    text = str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    return " ".join(text.split())
