"""Two ranks, each of which reads its own part of a base."""

import ctypes
import os
import re
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import make_llm
from running import together
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

from expctr.errors import UserError
from expctr.llm.critic import ValueHead
from expctr.llm.loading import LLMOptions, load_tokenizer
from expctr.llm.model import LanguageModel
from expctr.llm.sharding.fsdp import shard
from expctr.llm.sharding.loading import decoder_layers

SMALL = {"tied": "float32", "split": "bfloat16", "experts": "float32"}
"""Bases, and the dtype each is loaded in."""
REFUSED = "damaged"


def make(folder: Path, kind: str) -> None:
    make_llm(folder)  # its tokenizer serves all, and a tied Llama it is itself
    tokenizer = load_tokenizer(LLMOptions(path=str(folder)))
    if kind == "tied":
        return
    (folder / "model.safetensors").unlink()
    shape: dict[str, Any] = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model: PreTrainedModel
    if kind == "split":  # over several files, and in widths that two ranks cannot halve
        shape |= {"hidden_size": 30, "intermediate_size": 45, "num_hidden_layers": 2}
        model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=3, num_key_value_heads=1))
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    elif kind == "experts":  # which files have one by one, and the model as one weight
        shape |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
        model = MixtralForCausalLM(MixtralConfig(**shape))
        model.save_pretrained(folder)
    elif kind == REFUSED:
        shape |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(**shape))
        model.model.norm.weight.data[3] = torch.nan
        model.save_pretrained(folder)
    else:
        shape |= {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 16}
        model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=8, num_key_value_heads=8))
        model.bfloat16().save_pretrained(folder)  # in another dtype, or it would be mapped, not made
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 7]
    model.generation_config.save_pretrained(folder)


def load(folder: Path, kind: str, mesh: DeviceMesh | None) -> LanguageModel:
    dtype: Any = SMALL.get(kind, "float32")
    options = LLMOptions(path=str(folder / kind), lora_r=2, dtype=dtype)
    model = LanguageModel.load(options, 3, mesh)
    if mesh is not None:
        shard(model, ValueHead(model.hidden_size), mesh)
    return model


M_MMAP_THRESHOLD = -3
"""The C library's option: from how many bytes on it gives memory back at once when it is freed."""


def peak(action: Callable[[], object]) -> int:
    """By how many bytes the process's own memory, without what it maps of files, grew at most."""

    def own() -> int:
        (found,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found)

    seen, done = [own()], Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(own())

    watcher = Thread(target=watch)
    watcher.start()
    result = action()
    done.set()
    watcher.join()
    del result
    return max(seen) - seen[0]


def state(model: LanguageModel) -> dict[str, Tensor]:
    """All weights and buffers, gathered."""
    weights = {name: p.full_tensor() if isinstance(p, DTensor) else p for name, p in model.named_parameters()}
    return {name: weight.detach() for name, weight in (weights | dict(model.named_buffers())).items()}


@torch.no_grad()
def logits(model: LanguageModel) -> Tensor:
    ids = torch.arange(5, 17)[None]
    return model.logits(model.hidden(ids, torch.ones_like(ids), adapter=True))


def work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    load(folder, "tied", mesh)  # the first of all loads takes memory for code, too
    found: dict[str, Any] = {"peaks": [peak(partial(load, folder, "large", ranks)) for ranks in (mesh, None)]}
    for kind in SMALL:
        ours, whole = load(folder, kind, mesh), load(folder, kind, None)
        expected = state(whole)
        found[kind] = {
            "differ": [name for name, value in state(ours).items() if not torch.equal(value, expected.pop(name))],
            "missing": list(expected),
            "other dtypes": [n for n, p in whole.named_parameters() if p.dtype != ours.get_parameter(n).dtype],
            "logits": (logits(ours), logits(whole)),
            "ends": (ours.eos_ids, whole.eos_ids),
            "here": sum(p.to_local().numel() for p in ours.parameters() if isinstance(p, DTensor)),
            "everywhere": sum(p.numel() for p in ours.parameters() if isinstance(p, DTensor)),
            "attention": (ours.causal.config._attn_implementation, whole.causal.config._attn_implementation),
        }
    try:
        load(folder, REFUSED, mesh)
    except UserError as error:
        found["error"] = str(error)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("parts")
    for kind in (*SMALL, REFUSED, "large"):
        make(folder / kind, kind)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together(work, port, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("kind", SMALL)
def test_the_parts_together_are_the_base_and_its_seeds_adapter(ranks: list[dict[str, Any]], kind: str) -> None:
    for rank in ranks:
        found = rank[kind]
        assert (found["differ"], found["missing"], found["other dtypes"]) == ([], [], [])
        for ours, whole in (found["ends"], found["attention"]):
            assert ours == whole
        torch.testing.assert_close(*found["logits"], atol=1e-5, rtol=1e-5)
    assert sum(rank[kind]["here"] for rank in ranks) == ranks[0][kind]["everywhere"]


def test_a_damaged_base_is_refused_on_each_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "weights that are NaN or infinite, in model.norm.weight" in rank["error"]


def test_a_model_whose_layers_are_elsewhere_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(UserError, match=r"GPT2LMHeadModel has no list of decoder layers\. Fix: go home"):
        decoder_layers(model, "go home")


def test_no_rank_holds_the_whole_at_any_time(ranks: list[dict[str, Any]]) -> None:
    size = 16 * (4 * 384 * 384 + 3 * 384 * 1536) * 4
    for rank in ranks:
        parts, whole = rank["peaks"]
        assert whole > size
        assert parts < 0.9 * size
