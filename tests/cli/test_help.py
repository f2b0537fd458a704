"""Help on the classes that a config chooses."""

import re

import pytest

from expctr.cli.app import run
from expctr.cli.help import CHOICES, class_help, class_options
from expctr.errors import UserError
from expctr.modules.expctr import ExpCTRModule


@pytest.mark.parametrize("option", [name for name, classes in CHOICES.items() if len(classes) > 1])
def test_help_without_a_class_names_the_classes(option: str) -> None:
    text = class_help(option)
    for chosen in CHOICES[option]:
        assert re.search(rf"^  {chosen.__name__} +\w", text, re.MULTILINE)


def test_options_are_named_as_they_must_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    run(["fit", "--model.help", "ExpCTRModule"])
    text = capsys.readouterr().out
    assert "--model.explainer.kl.beta" in text
    assert "--model.ctr.options.lr" in text
    assert "--model.kl.beta" not in text
    assert "Learning rate of the adapter." in " ".join(text.split())
    run(["fit", "--model.help=PPOExplainerModule"])
    assert "--model.kl.beta" in capsys.readouterr().out


def test_help_on_a_nested_class_keeps_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    run(["fit", "--model", "CTRModule", "--model.backbone.help", "DCNv2"])
    text = capsys.readouterr().out
    assert "--model.backbone.experts" in text
    assert "number of low-rank experts that replace each cross matrix" in " ".join(text.split())
    assert "vocabulary" not in text  # which the data give
    run(["fit", "--config", "quickstart", "--model.explainer.help"])
    assert "--model.explainer.kl.beta" in capsys.readouterr().out


def test_an_unknown_class_is_refused_and_a_class_of_ones_own_is_found() -> None:
    with pytest.raises(UserError, match="model: there is no class DeepFFM; known classes: ExpCTRModule"):
        class_help("model", "DeepFFM")
    assert "--model.options.lr" in class_help("model", "expctr.modules.ctr.CTRModule")


def test_the_options_of_a_module_include_those_of_its_parts() -> None:
    options = class_options(ExpCTRModule, "model")
    assert {"model.encoder.path", "model.explainer.ppo.lr", "model.ctr.backbone"} <= set(options)
    assert not [name for name in options if name.endswith(".help")]
