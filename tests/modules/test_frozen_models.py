"""A checkpoint holds no frozen models, and is refused with others."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import make_llm
from running import World
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

import expctr
from expctr.errors import UserError
from expctr.modules.frozen_models import check_traits, traits


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    folder = make_llm(tmp_path_factory.mktemp("llm"))
    return AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"norm": torch.ones(5), "layer": torch.randn(8, 40), "codes": torch.arange(9)}


def test_weights_in_another_precision_are_the_same(parts: Any) -> None:
    then = traits(weights().items(), *parts)
    assert then["names"] == ["norm", "layer", "codes"]
    assert then["sampled"].shape == (3, 32)
    assert {*then["sampled"][1].tolist()} < {*weights()["layer"].flatten().tolist()}
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        other = ((name, w.to(dtype) if name != "codes" else w) for name, w in weights().items())
        check_traits(traits(other, *parts), then, "llm.path")


def test_other_weights_are_refused_by_name(parts: Any) -> None:
    """Also slightly other ones, as of a base and of what was tuned from it, and those that begin alike."""
    then = traits(weights().items(), *parts)
    tuned, merged, tail = weights(), weights(), weights()
    tuned["layer"] *= 1 + 0.0075 * torch.randn(8, 40).sign()
    merged["layer"] *= 1.001
    tail["layer"][1:] *= -1
    assert not torch.equal(weights(1)["layer"], weights()["layer"])
    for other in (weights(1), tuned, merged, tail):
        with pytest.raises(UserError, match=r"llm\.path has other weights than the run was made with, such as layer\."):
            check_traits(traits(other.items(), *parts), then, "llm.path")
    check_traits(traits({"new name": torch.ones(3)}.items(), *parts), then, "llm.path")


def test_quantized_weights_are_compared_too(parts: Any) -> None:
    """Another device may round one in twenty to the next number."""
    torch.manual_seed(0)
    then, number = {"linear": torch.randint(256, (5000, 1), dtype=torch.uint8)}, torch.arange(5000)[:, None]
    rounded = then["linear"] + (number % 20 == 0).to(torch.uint8)
    check_traits(traits({"linear": rounded}.items(), *parts), traits(then.items(), *parts), "llm.path")
    with pytest.raises(UserError, match="other weights than the run was made with, such as linear"):
        check_traits(traits({"linear": 255 - then["linear"]}.items(), *parts), traits(then.items(), *parts), "llm.path")
    check_traits(traits({"linear": torch.ones(5)}.items(), *parts), traits(then.items(), *parts), "llm.path")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, "rope_parameters.rope_theta 5.0, and"),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 8.0}},
            "rope_parameters.rope_type linear, and",
        ),
        ({"hidden_act": "gelu"}, "hidden_act gelu, and the run was made with silu"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps"),
        ({"use_cache": False, "dtype": "float16", "architectures": ["X"]}, ""),
    ],
)
def test_another_config_is_refused(change: dict[str, Any], said: str, parts: Any) -> None:
    config, tokenizer = parts
    then = traits([], config, tokenizer)
    now = traits([], type(config)(**(config.to_dict() | change)), tokenizer)
    if said:
        with pytest.raises(UserError, match=f"^llm.path has {re.escape(said)}"):
            check_traits(now, then, "llm.path")
    else:
        check_traits(now, then, "llm.path")
    del then["settings"]["rms_norm_eps"]  # of another version of transformers
    check_traits(traits([], config, tokenizer), then, "llm.path")


def test_another_vocabulary_is_refused(parts: Any) -> None:
    config, tokenizer = parts
    then = traits([], config, tokenizer)
    check_traits(traits([], config, copy.deepcopy(tokenizer)), then, "llm.path")
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens("a new word")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = backend["model"]["merges"]
    # the last merge is of no word of the sample text; without it, all tokens are there
    fewer = made_of(tokenizer, backend | {"model": backend["model"] | {"merges": merges[:-1]}})
    lower = made_of(tokenizer, backend | {"normalizer": {"type": "Lowercase"}})
    for other in (larger, fewer, lower):
        with pytest.raises(
            UserError,
            match=r"^llm\.path has another tokenizer .* than the run was made with\. Fix: ",
        ):
            check_traits(traits([], config, other), then, "llm.path")


def made_of(tokenizer: PreTrainedTokenizerBase, backend: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A copy, of another content of tokenizer.json."""
    other = copy.deepcopy(tokenizer)
    other._tokenizer = Tokenizer.from_str(json.dumps(backend))
    return other


def test_other_tokens_that_end_a_sentence_are_refused(parts: Any) -> None:
    """As newer releases of a base name more of them in generation_config.json."""
    with pytest.raises(UserError, match=r"^llm\.path has eos_token_id \[1, 2\], and the run was made with \[2\]\. Fix"):
        check_traits(traits([], *parts, eos_ids=[1, 2]), traits([], *parts, eos_ids=[2]), "llm.path")


def test_a_value_that_is_not_a_number_is_the_same(parts: Any) -> None:
    config, tokenizer = parts
    odd = type(config)(**(config.to_dict() | {"foo": float("nan")}))
    check_traits(traits([], odd, tokenizer), traits([], odd, tokenizer), "llm.path")


@pytest.mark.parametrize("option", ["llm.path", "encoder.path"])
def test_a_run_with_another_model_in_the_place_of_its_own_is_refused(option: str, world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.tested("one"), run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    part = config["model"]["init_args"]
    owner = part["explainer"]["init_args"]["llm"] if option == "llm.path" else part["encoder"]
    owner["path"] = str(shutil.copytree(owner["path"], tmp_path / "model"))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    expctr.load(run)
    make_llm(tmp_path / "model", seed=3)
    with pytest.raises(UserError, match=rf"^{option} has other weights than the run was made with, such as "):
        expctr.load(run)
