"""A loaded model's logits, and those of transformers alone for the same text."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel

TEXT = "The liked books: none. Considering the preference of the customer,"


def load(folder: Path, **options: object) -> LanguageModel:
    settings: dict[str, object] = {"dtype": "float32", "lora_r": 4, **options}
    return LanguageModel.load(LLMOptions(path=str(folder), **settings))  # type: ignore[arg-type]


def logits(model: LanguageModel, adapter: bool = False) -> Tensor:
    ids = torch.tensor([model.tokenizer(TEXT).input_ids])
    return model.logits(model.hidden(ids, torch.ones_like(ids), adapter))


def plain_logits(folder: Path) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        result = AutoModelForCausalLM.from_pretrained(folder)(**tokenizer(TEXT, return_tensors="pt")).logits
    assert isinstance(result, Tensor)
    return result
