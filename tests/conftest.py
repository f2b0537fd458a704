"""A random Llama of a few thousand weights, fixtures that use it, and the marker of tests that start processes.

torch and expctr are imported where they are used: xdist's controller, which runs no test, starts its workers sooner.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from running import World

    from expctr.data.batches import SampleText
    from expctr.llm.loading import LLMOptions
    from expctr.llm.model import LanguageModel
    from expctr.llm.prompts import Prompts

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread is fastest for small tensors

CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_llm(folder: Path, *, pad_is_eos: bool = False, chat: bool = True, seed: int = 0) -> Path:
    """Write a random two-layer Llama with a byte-level tokenizer in which Yes and No are single tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from expctr.llm.prompts import PromptOptions

    options = PromptOptions()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
    corpus = [options.explanation, options.lc, options.icl, "Yes. No. Yes. No."] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|end|>" if pad_is_eos else "<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT if chat else None,
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def stir_adapter(model: LanguageModel, seed: int = 1) -> None:
    """Give the adapter random weights that change the model's output; a fresh adapter changes nothing."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)


@pytest.fixture(scope="session")
def llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="session", params=["pad token", "pad is eos"])
def any_llm_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llm(tmp_path_factory.mktemp("llm"), pad_is_eos=request.param == "pad is eos")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> LLMOptions:
    """Options of a small Llama without weights, whose sizes can be computed by hand."""
    from expctr.llm.loading import LLMOptions

    config = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_text(json.dumps(config))
    return LLMOptions(path=str(folder), lora_r=4)


@pytest.fixture
def model(llm_folder: Path) -> LanguageModel:
    from expctr.llm.loading import LLMOptions
    from expctr.llm.model import LanguageModel

    return LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", lora_r=4))


@pytest.fixture
def samples() -> list[SampleText]:
    from expctr.data.batches import SampleText

    return [
        SampleText("Heat", ("Toy Story", "Fargo"), ("Casper",)),
        SampleText("Nikita", (), ("Casper", "Die Hard: With a Vengeance", "Se7en")),
        SampleText("Kids", ("Alien",), ()),
        SampleText("Usual Suspects, The", tuple(f"Film {i}" for i in range(8)), ("Congo",)),
        SampleText("M", (), ()),
    ]


@pytest.fixture
def prompts(model: LanguageModel) -> Prompts:
    from expctr.data.batches import Nouns
    from expctr.llm.prompts import PromptOptions, Prompts

    return Prompts(model.tokenizer, PromptOptions(), Nouns("movie", "movies", "viewer", "viewing"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The tiny model and ratings of tests that run the command line, shared by all workers."""
    from running import make_world

    base = tmp_path_factory.getbasetemp()
    return make_world((base if "PYTEST_XDIST_WORKER" not in os.environ else base.parent) / "world")


# --- the tier `cli`


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of `faults/test_random_stops.py`."""
    parser.addoption("--stop_seed", type=int, default=0, help="seed of the moments in faults/test_random_stops.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes, themselves or through fixtures and helpers of their file, as `cli`."""
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = [made[-1].func for made in item._fixtureinfo.name2fixturedefs.values()]
            if any(starts_processes(function, set()) for function in (item.function, *fixtures)):
                item.add_marker("cli")


def starts_processes(function: Any, seen: set[Any]) -> bool:
    """Return whether a function uses a starter of processes, also through other functions of its file."""
    function = getattr(function, "__wrapped__", function)  # of a cache
    if not isinstance(function, FunctionType) or function in seen:
        return False
    seen.add(function)
    running = sys.modules.get("running")
    starters: list[Any] = [subprocess, multiprocessing.get_context]
    starters += [running.expctr, running.start, running.together, running.server] if running else []
    for name in names_used(function.__code__):
        value = function.__globals__.get(name)
        if name in ("once", "tested") or any(value is starter for starter in starters):  # of `World`
            return True
        if getattr(value, "__module__", None) == function.__module__ and starts_processes(value, seen):
            return True
    return False


def names_used(code: CodeType) -> Iterator[str]:
    """Yield the global names and attributes that a function uses, also in functions within it."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names_used(inner)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let `running` start processes only for tests of the tier `cli`, and skip 8-bit bases where they are refused."""
    if item.get_closest_marker("int8"):
        from expctr.llm.cpu.int8 import int8_is_exact

        if not int8_is_exact():
            pytest.skip("8-bit products overflow on this CPU")
    if running := sys.modules.get("running"):
        running.allowed = item.get_closest_marker("cli") is not None
