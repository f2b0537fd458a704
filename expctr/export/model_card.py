"""The exported folder's README.md, which is also a model card as hubs read it: YAML at the top, then Markdown."""

import json
import os
import re
from html import escape
from importlib.metadata import version
from pathlib import Path

import lightning as L
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache

from expctr.data.ratings_module import RatingsDataModule
from expctr.export.files import card
from expctr.llm.loading import LLMOptions, locate
from expctr.modules.baselines.tallrec import TALLRecModule
from expctr.modules.staged import StagedModule
from expctr.untrusted import one_line

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `--max-lora-rank`."""
_BITS = {
    "nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True',
    "int8": "load_in_8bit=True",
}


def write_card(module: L.LightningModule, data: RatingsDataModule, out: Path, lines: list[str]) -> None:
    """Write README.md.

    Args:
        module: the exported one.
        data: the run's data.
        out: the folder, with everything else in it.
        lines: what was written, each as `names: description`.
    """
    # of the rows, if there are tables of items and users, too; those are read before
    largest = max(data.summary.files, key=lambda name: data.summary.files[name], default="")
    source = Path(data.path).resolve().name if data.path else Path(largest).stem
    name = re.sub(r"[^\w.-]+", "-", source, flags=re.ASCII).strip("-.") or "ratings"
    tested, summary = (out / "table.md").exists(), data.summary
    meta = ModelCardData(metrics=["roc_auc", "mae", "mse"] if tested else None, tags=["expctr", "recommendation"])
    parts = [f"# {type(module).__name__} of expctr, trained on {name}"]
    if isinstance(module, StagedModule | TALLRecModule):
        options = module.models.policy.llm if isinstance(module, StagedModule) else module.llm
        meta.library_name, meta.pipeline_tag, meta.license = "peft", "text-generation", base_license(options)
        meta.tags = ["lora", "expctr", "recommendation"]
        meta.base_model = options.path if is_on_hub(options) else None
        parts += [_language_model(module, data, out), _base(options, meta.license, out)]
    else:
        parts.append("A model that predicts clicks. [ctr/README.md](ctr/README.md) says how it computes.")
    parts.append("\n".join(["## Files\n", *(f"- {line}" for line in lines), "- config.yaml: every option of the run"]))
    parts.append(
        f"## Data\n\n{_code(name)}: {summary.interactions:,} ratings of {summary.items:,} items by {summary.users:,} "
        f"users. Labels: {_code(summary.rule)}."
    )
    results = "These weights were not tested before the export: run `expctr test`, then export again."
    if tested:
        text = (out / "table.md").read_text(encoding="utf-8", errors="replace")
        table = escape(text.split("\n\n")[0], quote=False)
        results = f"Of the run's latest `expctr test`, with 95% intervals. [table.md](table.md) has more.\n\n{table}"
    parts.append(f"## Results\n\n{results}")
    (out / "README.md").write_text("\n\n".join([f"---\n{meta.to_yaml()}\n---", *parts]) + "\n", encoding="utf-8")


def is_on_hub(options: LLMOptions) -> bool:
    """Whether the base's path is an id on a hub."""
    return options.path != "nano" and not Path(os.path.expanduser(options.path)).is_dir()


def base_license(options: LLMOptions) -> str | None:
    """The license of the base as its own card names it, where that card is on this machine."""
    if options.path == "nano":
        return "apache-2.0"
    if is_on_hub(options):
        path = try_to_load_from_cache(options.path, "README.md", revision=options.revision)
    else:
        path = str(Path(locate(options.path, "llm.path")) / "README.md")
    if not isinstance(path, str) or not Path(path).is_file():
        return None
    try:
        named = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
    except Exception:  # of any kind: the card is a stranger's, and what reads it checks little
        return None
    return named if isinstance(named, str) else None


def _language_model(module: StagedModule | TALLRecModule, data: RatingsDataModule, out: Path) -> str:
    """How the adapter is used, with titles of the data, and where."""
    titles = [one_line(title) for title in data.samples["target_title"].unique(maintain_order=True).head(3)]
    values = {"liked": titles[:2], "target": titles[-1]}
    shown = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    shown["versions"] = " ".join(f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers", "peft"))
    if isinstance(module, TALLRecModule):
        return card("use_tallrec.md").format(**shown, **module.question.answers._asdict()).strip()
    config = json.loads((out / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    tokens = config["alora_invocation_tokens"]
    policy = module.models.policy
    scope = "all" if policy.llm.adapter_scope == "all" else "response" if tokens else "response_by_cache"
    where = card(f"scope_{scope}.md").format(
        base=config["base_model_name_or_path"],
        rank=next((rank for rank in _RANKS if rank >= config["r"]), config["r"]),
        special='`"add_special_tokens": false`'
        if policy.prompts.tokenizer.chat_template
        else "the base's special tokens",
        tokens=tokens,
    )
    return f"{card('use.md').format(**shown).strip()}\n\n{where.strip()}"


def _base(options: LLMOptions, license_: str | None, out: Path) -> str:
    """Which base the adapter needs, and where it is."""
    settings = json.loads((out / "prompt.json").read_text(encoding="utf-8"))
    source = settings["source"]
    file = f", file {_code(source['gguf_file'])}" if "gguf_file" in source else ""
    if options.path == "nano":
        where = "nano (1.2 M parameters), which ships with expctr and is on no hub. The folder `base` is a copy of it"
    elif is_on_hub(options):
        where = f"{_code(options.path)} of the hub{file}, revision {_code(source.get('revision', 'main'))}"
    else:
        where = (
            f"the folder {_code(settings['base'])}{file} of the machine that trained. Elsewhere, give the same weights "
            "as a folder or hub id: `load(base=...)`"
        )
    lines = [f"## Base\n\nThe adapter needs {where}."]
    lines.append(f"Training computed in {settings['dtype']}, as `load` does.")
    if options.quantization != "none":
        bits = _BITS[options.quantization]
        lines.append(f"Its weights were in 4 or 8 bits: `load(quantization_config=BitsAndBytesConfig({bits}))`.")
    lines.append(f"Its license: {_code(license_) if license_ else 'not known here; see the card of the base'}.")
    return " ".join(lines)


def _code(text: str) -> str:
    """A text in which Markdown finds no markup."""
    return f"`{one_line(text).replace('`', ' ')}`"
