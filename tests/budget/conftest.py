"""A small Llama without weights, whose numbers can be worked by hand."""

import json
from pathlib import Path

import pytest

from expctr.llm.base import LLMOptions

LLAMA = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture
def options(tmp_path: Path) -> LLMOptions:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return LLMOptions(path=str(tmp_path), lora_r=4)
