"""Options of experiments' runs: read as `expctr` reads them, and the same for all runs in a folder."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from expctr.report.sections import flatten
from tools.runs import COMMAND, last_words

FREE = (  # may differ between two calls: set per run, or without an effect on results
    *("seed_everything", "ckpt_path", "weights_only", "checkpoint", "results"),
    *(f"trainer.{name}" for name in ("default_root_dir", "logger", "callbacks", "enable_progress_bar")),
    *(f"data.init_args.{name}" for name in ("cache_dir", "eval_batch_size", "paper_dataset")),
)


def parse(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the tool's own arguments, and the options of `expctr`: the configs, and what stands after `--`."""
    parser.add_argument("--config", action="append", required=True, help="as for expctr; later ones override")
    words = sys.argv[1:] if args is None else list(args)
    cut = words.index("--") if "--" in words else len(words)
    own = parser.parse_args(words[:cut])
    return own, [*(f"--config={Path(config).resolve()}" for config in own.config), *words[cut + 1 :]]


def resolve(options: list[str]) -> dict[str, Any]:
    """Return the whole config with its defaults, as the command line reads it.

    Raises:
        SystemExit: the command line refuses the options.
    """
    line = [*COMMAND, "fit", *options, "--print_config"]
    printed = subprocess.run(line, capture_output=True, text=True, check=False)
    if printed.returncode:
        raise SystemExit(last_words(printed.stderr, printed.returncode))
    config: dict[str, Any] = yaml.safe_load(printed.stdout)
    return config


def check_same(config: dict[str, Any], path: Path) -> None:
    """Refuse a folder whose runs were made with another config, which `path` keeps; write it in a new folder.

    Raises:
        SystemExit: with up to three of the differences.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_yaml(path, config)
    made, now = (dict(flatten(tree)) for tree in (yaml.safe_load(path.read_text(encoding="utf-8")), config))
    changes = [
        f"{name} is {now.get(name)}, but the runs in {path.parent} were made with {made.get(name)}"
        for name in sorted(made.keys() | now.keys())
        if made.get(name) != now.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in FREE)
    ]
    if changes:
        more = "; ..." if changes[3:] else ""
        raise SystemExit(f"{'; '.join(changes[:3])}{more}. Fix: use the old value, or another --out")


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
