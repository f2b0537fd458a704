"""A checkpoint holds no frozen weights, and is refused with others."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import make_llm
from running import World

import expctr
from expctr.errors import UserError
from expctr.modules.frozen_weights import check_first_numbers, first_numbers


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {"norm": torch.ones(5), "layer": torch.randn(8, 40), "codes": torch.arange(9)}


def test_weights_in_another_precision_are_the_same() -> None:
    found = weights()
    then = first_numbers(found.items())
    assert then["names"] == ["norm", "layer"]
    assert then["numbers"].shape == (2, 32)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        check_first_numbers(first_numbers((n, w.to(dtype)) for n, w in found.items() if n != "codes"), then, "llm.path")


def test_other_weights_are_refused_by_name() -> None:
    """Also slightly other ones, as of a base and of what was tuned from it."""
    then = first_numbers(weights().items())
    tuned = weights()
    tuned["layer"] += 0.02 * torch.randn(8, 40)
    for other in (weights(1), tuned):
        with pytest.raises(UserError, match=r"llm\.path has other weights than the run was made with, such as layer\."):
            check_first_numbers(first_numbers(other.items()), then, "llm.path")
    check_first_numbers(first_numbers({"new name": torch.ones(3)}.items()), then, "llm.path")


@pytest.mark.parametrize("option", ["llm.path", "encoder.path"])
def test_a_run_with_another_model_in_the_place_of_its_own_is_refused(option: str, world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(world.tested("one"), run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    part = config["model"]["init_args"]
    owner = part["explainer"]["llm"] if option == "llm.path" else part["encoder"]
    owner["path"] = str(shutil.copytree(owner["path"], tmp_path / "model"))
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    expctr.load(run)
    make_llm(tmp_path / "model", seed=3)
    with pytest.raises(UserError, match=rf"^{option} has other weights than the run was made with, such as "):
        expctr.load(run)
