"""Export of the language model: the adapter in PEFT's format, the prompt, and code that needs no expctr."""

import json
import os
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

from expctr.distributed import rank
from expctr.errors import UserError
from expctr.export.files import gathered, write_json
from expctr.llm.loading import LLMOptions, hub_arguments, load_base, locate
from expctr.llm.model import LanguageModel
from expctr.llm.prompts import Prompts

_CODE = ("export/cards/explain.py", "llm/prompt_writer.py", "untrusted.py")
"""Files of this package that are copied, so that the exported prompt is written by the code that trained with it."""
_PROBES = ("Heat (1995)", "7", "M", "Se7en: a film", "...", '"Yes"', "Amélie", "千と千尋", "Пила", "🎬", "x\u200d", "")
"""Titles whose last characters differ in kind, so that a tokenizer that joins them to what follows is noticed."""


def write_language_model(
    model: LanguageModel, prompts: Prompts, template: str, max_new_tokens: int, out: Path, merged: bool, response: bool
) -> list[str]:
    """Write the adapter, the prompt and the code that uses them; return a line on each.

    Args:
        model: with the adapter.
        prompts: write the prompts of the data.
        template: of the prompt that the adapter answers.
        max_new_tokens: of an answer.
        out: the folder.
        merged: also write the base with the adapter merged into its weights.
        response: the adapter acts from the prompt's last token on.
    """
    options = model.options
    if merged and model.quantized and options.quantization == "none":
        raise UserError(
            f"merged: {options.path} is quantized on disk, and a merge would round the adapter's weights away: set "
            "llm.path to the float weights, or load the adapter with PEFT"
        )
    weights = {name: gathered(p) for name, p in model.peft.named_parameters() if p.requires_grad}
    if rank() > 0:
        return []
    # save_embedding_layers=False: PEFT would ask the hub whether the vocabulary has grown
    model.peft.save_pretrained(str(out / "adapter"), state_dict=weights, save_embedding_layers=False)
    (out / "adapter" / "README.md").unlink()  # the one above is the model card
    last = last_token(prompts, template) if response else None
    config = json.loads((out / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base_name(options), "revision": options.revision}
    config |= {"alora_invocation_tokens": None if last is None else [last]}
    write_json(config, out / "adapter" / "adapter_config.json")
    _write_code(model, prompts, template, max_new_tokens, out, base_reads_prompt=response and last is None)
    kind = "LoRA that acts on every token"
    if response:
        kind = (
            "activated LoRA (llm.adapter_scope: response)"
            if last is not None
            else "which explain.py alone uses correctly: prompts with different last tokens have no activated LoRA"
        )
    lines = [
        f"adapter: in PEFT's format, {kind}",
        "explain.py, prompt_writer.py, untrusted.py, prompt.json: write prompts and explanations without expctr",
    ]
    if options.path == "nano":
        copytree(locate("nano", "llm.path"), out / "base", copy_function=copyfile)
        lines.append("base: the base, nano, which is on no hub")
    if merged:
        lines.append("merged: the language model in float32, with the adapter in its weights")
        _merge(model, out / "adapter", out / "merged")
    return lines


def base_name(options: LLMOptions) -> str:
    """What loads the base: a hub id, a folder of this machine, or `base` in the exported folder for nano."""
    folder = Path(os.path.expanduser(options.path))
    return "base" if options.path == "nano" else str(folder.resolve()) if folder.is_dir() else options.path


def last_token(prompts: Prompts, template: str) -> int | None:
    """The last token of every prompt; none if it depends on the titles."""
    last = {prompts.with_history(template, [title], [title], title)[0][-1] for title in _PROBES}
    return last.pop() if len(last) == 1 else None


def _write_code(
    model: LanguageModel, prompts: Prompts, template: str, max_new_tokens: int, out: Path, base_reads_prompt: bool
) -> None:
    """Write `prompt.json`, and this package's own code that reads it, with imports from beside it."""
    settings: dict[str, Any] = {
        "base": base_name(model.options),
        "source": hub_arguments(model.options),
        "dtype": str(model.causal.dtype).removeprefix("torch."),
        "base_reads_prompt": base_reads_prompt,
        "template": template,
        "prompt": {
            "nouns": prompts.nouns,
            "none": prompts.none,
            "title_tokens": prompts.title_tokens,
            "prompt_tokens": prompts.prompt_tokens,
            "template_kwargs": prompts.options.template_kwargs,
            "date": prompts.options.date,
        },
        "generation": {
            "do_sample": False,
            "max_new_tokens": max_new_tokens,
            "eos_token_id": model.eos_ids,
            "pad_token_id": model.pad_id,
        },
    }
    write_json(settings, out / "prompt.json")
    for name in _CODE:
        source = (files("expctr") / name).read_text(encoding="utf-8")
        flat = re.sub(r"^from expctr\.(?:\w+\.)*(\w+) import", r"from \1 import", source, flags=re.MULTILINE)
        (out / Path(name).name).write_text(flat, encoding="utf-8")


def _merge(model: LanguageModel, adapter: Path, out: Path) -> None:
    """Merge into a fresh base in float32: the one in memory is rounded, and must not change."""
    from peft import PeftModel

    base = load_base(replace(model.options, dtype="float32", quantization="none"))
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out)
    model.tokenizer.save_pretrained(out)
