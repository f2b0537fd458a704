"""What cannot be sharded."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from expctr.errors import UserError
from expctr.llm.loading import LLMOptions
from expctr.llm.model import LanguageModel
from expctr.llm.sharding.fsdp import shard


def test_compiled_decoding_of_a_sharded_base_is_refused(llm_folder: Path) -> None:
    model = LanguageModel.load(LLMOptions(path=str(llm_folder), dtype="float32", compile_decoding=True))
    mesh: Any = None  # it is not looked at
    with pytest.raises(UserError, match=r"llm\.compile_decoding"):
        shard(model, nn.Linear(1, 1), mesh)
