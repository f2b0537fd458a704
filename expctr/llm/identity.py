"""What tells a language model or an encoder from others, beside its weights: its settings, and how it reads a text."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

_UNRELATED = re.compile(
    r"_.*|.*dtype|.*_token_ids?|(transformers_)?version|architectures|auto_map|id2label|label2id|initializer_range"
    r"|output_.*|problem_type|quantization_config|return_dict|task_specific_params|use_cache"
)
"""Values of a config that change nothing that is computed here, or that options of a run decide."""
_SAMPLE = "I'll  re-watch “Amélie” (2001), ＡＢＣ, 七人の侍 & Se7en!\nNo. 12345.67 €, naïve\t🎬 CamelCase don't_ " * 2
"""Words, numbers, marks and scripts that tokenizers split in different ways."""


def settings_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The values of a config that decide what is computed: numbers and texts as they are, lists as JSON."""
    return dict(_leaves(config.get_text_config().to_dict()))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and not _UNRELATED.fullmatch(str(name)):
            yield from _leaves(value, f"{prefix}{name}.")
        elif not _UNRELATED.fullmatch(str(name)):
            plain = isinstance(value, int | float | str | None)
            yield f"{prefix}{name}", value if plain else json.dumps(value, sort_keys=True, default=str)


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> bytes:
    """For a hash: all tokens and their ids, what they are merged of, and the tokens of a text of many kinds."""
    known: list[Any] = [sorted(tokenizer.get_vocab().items()), tokenizer(_SAMPLE, verbose=False).input_ids]
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", ())]
        known += [merges, model["vocab"] if isinstance(model.get("vocab"), list) else None]  # with scores: Unigram
    return repr(known).encode("utf-8", "surrogatepass")
