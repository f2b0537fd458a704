"""Files that make a folder, the mark, if anything in them is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Bomb:
    """A pickle that makes a folder where it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def evil_module(folder: Path, mark: Path, name: str = "evil.py") -> None:
    """Write a Python file that leaves the mark when it is imported."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"import os\nos.makedirs({str(mark)!r})\n", encoding="utf-8")


def change(file: Path, **entries: Any) -> None:
    """Change entries of a JSON file, which need not exist."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**found, **entries}), encoding="utf-8")


# --- model folders: each takes a good one, and the mark


def own_model_code(folder: Path, mark: Path) -> None:
    """An unknown kind of model, with its code."""
    own_code_for_a_known_model(folder, mark)
    change(folder / "config.json", model_type="evil")


def own_code_for_a_known_model(folder: Path, mark: Path) -> None:
    """A known kind of model, with code that should replace it."""
    evil_module(folder, mark)
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Evil")
    change(folder / "config.json", auto_map=classes)


def own_tokenizer_code(folder: Path, mark: Path) -> None:
    """A tokenizer with its code."""
    evil_module(folder, mark)
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.A", "evil.B"]})


def own_generate_code(folder: Path, mark: Path) -> None:
    """Code that should replace the generation of text."""
    evil_module(folder, mark, "custom_generate/generate.py")


def own_modules(folder: Path, mark: Path) -> None:
    """The list of modules of a sentence encoder, with one of its own."""
    evil_module(folder, mark)
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))


def pickled_weights(folder: Path, mark: Path) -> None:
    """Weights in a pickle alone."""
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(mark), folder / "pytorch_model.bin")


def pickled_weights_beside_good_ones(folder: Path, mark: Path) -> None:
    """Weights in a pickle too."""
    torch.save(Bomb(mark), folder / "pytorch_model.bin")


def pickled_weights_in_a_list_of_shards(folder: Path, mark: Path) -> None:
    """A list of safetensors files that names a pickle."""
    (folder / "model.safetensors").unlink()
    torch.save(Bomb(mark), folder / "shard.bin")
    shards = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "shard.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


def pickled_weights_by_another_name(folder: Path, mark: Path) -> None:
    """A pickle called safetensors."""
    torch.save(Bomb(mark), folder / "model.safetensors")


def adapter_with_pickled_weights(folder: Path, mark: Path) -> None:
    """A good model with an adapter in a pickle."""
    lora = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(lora))
    torch.save(Bomb(mark), folder / "adapter_model.bin")


def adapter_of_another_model(folder: Path, mark: Path) -> None:
    """An adapter alone, whose base has code."""
    base = Path(shutil.copytree(folder, folder / "base"))
    own_model_code(base, mark)
    adapter_with_pickled_weights(folder, mark)
    change(folder / "adapter_config.json", base_model_name_or_path=str(base))
    (folder / "config.json").unlink()


def compiled_code_from_a_hub(folder: Path, mark: Path) -> None:
    """Attention whose compiled code transformers should download."""
    change(folder / "config.json", attn_implementation="msa|evil/kernel")


def template_that_leaves_its_sandbox(folder: Path, mark: Path) -> None:
    """A chat template that asks for Python's classes."""
    (folder / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")


MODELS: dict[str, tuple[Callable[[Path, Path], None], str, str]] = {
    made.__name__: (made, base, encoder)
    for made, base, encoder in (
        (own_model_code, "contains custom code", "contains custom code"),
        (own_code_for_a_known_model, "", ""),
        (own_tokenizer_code, "contains custom code", "cannot be loaded"),
        (own_generate_code, "", ""),
        (own_modules, "", ""),
        (pickled_weights, "no file named model.safetensors", "no file named model.safetensors"),
        (pickled_weights_beside_good_ones, "", ""),
        (pickled_weights_in_a_list_of_shards, "its weights are pickled", "its weights are pickled"),
        (pickled_weights_by_another_name, "header too large", "header too large"),
        (adapter_with_pickled_weights, "has a PEFT adapter", "has a PEFT adapter"),
        (adapter_of_another_model, "has a PEFT adapter", "has a PEFT adapter"),
        (compiled_code_from_a_hub, "names the attention msa|evil/kernel", "names the attention msa|evil/kernel"),
        (template_that_leaves_its_sandbox, "chat template", ""),
    )
}
"""By name: what makes the folder hostile; what is said of it as a base, and as an encoder; empty where the good part of
it is loaded."""


# --- checkpoints: each takes a path, and the mark


def bomb_in_a_checkpoint(path: Path, mark: Path) -> None:
    """A checkpoint as torch writes it."""
    torch.save({"features": Bomb(mark), "loops": {}}, path)


def bomb_in_an_old_checkpoint(path: Path, mark: Path) -> None:
    """A checkpoint as torch wrote it before version 1.6."""
    torch.save(Bomb(mark), path, _use_new_zipfile_serialization=False)


def bare_pickle(path: Path, mark: Path) -> None:
    """A pickle of no other kind."""
    path.write_bytes(pickle.dumps(Bomb(mark)))


def bomb_in_a_folder(path: Path, mark: Path) -> None:
    """A sharded checkpoint whose common part is a bomb."""
    path.mkdir()
    torch.save(Bomb(mark), path / "meta.pt")


def bomb_in_the_contents_of_a_folder(path: Path, mark: Path) -> None:
    """A sharded checkpoint whose table of contents is a bomb."""
    path.mkdir()
    torch.save({"features": {}, "loops": {}}, path / "meta.pt")
    (path / ".metadata").write_bytes(pickle.dumps(Bomb(mark)))


CHECKPOINTS = (
    bomb_in_a_checkpoint,
    bomb_in_an_old_checkpoint,
    bare_pickle,
    bomb_in_a_folder,
    bomb_in_the_contents_of_a_folder,
)
