"""How exported files are written: whole tensors from all ranks, JSON, texts, and modes as the umask says."""

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from expctr.distributed import rank


def gathered(weight: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all ranks where it is sharded."""
    weight = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return weight.detach().to("cpu", copy=True).contiguous()


def save(weights: Mapping[str, Tensor], path: Path) -> None:
    """Gather tensors from all ranks and write them."""
    tensors = {name: gathered(weight) for name, weight in weights.items()}
    if rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


def write_json(content: object, path: Path) -> None:
    """Write JSON for programs and people."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def card(name: str) -> str:
    """A text for the exported folder, from the folder `cards`."""
    return (files("expctr.export") / "cards" / name).read_text(encoding="utf-8")


def apply_umask(folder: Path) -> None:
    """Give files that safetensors has made private to their owner the mode of other new files."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o666 & ~mask)
