"""A checkpoint holds no frozen models, and is refused with others."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import make_llm
from running import World
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
    assert then["names"] == ["norm", "layer"]
    assert then["numbers"].shape == (2, 32)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        other = ((name, w.to(dtype)) for name, w in weights().items() if name != "codes")
        check_traits(traits(other, *parts), then, "llm.path")


def test_other_weights_are_refused_by_name(parts: Any) -> None:
    """Also slightly other ones, as of a base and of what was tuned from it."""
    then = traits(weights().items(), *parts)
    tuned = weights()
    tuned["layer"] += 0.02 * torch.randn(8, 40)
    for other in (weights(1), tuned):
        with pytest.raises(UserError, match=r"llm\.path has other weights than the run was made with, such as layer\."):
            check_traits(traits(other.items(), *parts), then, "llm.path")
    check_traits(traits({"new name": torch.ones(3)}.items(), *parts), then, "llm.path")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}, r"rope_parameters\.rope_theta 5\.0 in its"),
        ({"hidden_act": "gelu"}, "hidden_act gelu in its config.json, and the run was made with silu"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps"),
        ({"use_cache": False}, ""),
    ],
)
def test_another_config_is_refused(change: dict[str, Any], said: str, parts: Any) -> None:
    config, tokenizer = parts
    then = traits([], config, tokenizer)
    now = traits([], type(config)(**(config.to_dict() | change)), tokenizer)
    if said:
        with pytest.raises(UserError, match=rf"^llm\.path has {said}"):
            check_traits(now, then, "llm.path")
    else:
        check_traits(now, then, "llm.path")
    del then["settings"]["rms_norm_eps"]  # of another version of transformers
    check_traits(traits([], config, tokenizer), then, "llm.path")


def test_another_vocabulary_is_refused(parts: Any) -> None:
    config, tokenizer = parts
    then = traits([], config, tokenizer)
    other = copy.deepcopy(tokenizer)
    other.add_tokens("a new word")
    with pytest.raises(UserError, match=r"^llm\.path has another vocabulary than the run was made with\. Fix: "):
        check_traits(traits([], config, other), then, "llm.path")


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
