"""The model, untrained, and its tokenizer; saving them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from expctr.llm.prompts import PromptOptions
from tools.nano.judgements import judged_text
from tools.nano.opinions import DOMAINS, OTHER_DOMAINS, opinion
from tools.nano.titles import history

PAD, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORD = r"""", "| ?"|'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}"]+|\s+"""


def make_tokenizer(rng: random.Random, vocabulary: int = 3072) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE that splits quotes off, so that a title has the same tokens in every quotation."""
    bpe = Tokenizer(models.BPE())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORD), "isolated"), spelled])
    bpe.decoder = decoders.ByteLevel()

    def corpus() -> Iterator[str]:
        options = PromptOptions()
        for _ in range(20000):
            nouns, text = rng.choice(DOMAINS + OTHER_DOMAINS), history(rng)
            names = {**vars(nouns), "liked": "none", "disliked": "none", "target": "", "reason": ""}
            yield getattr(options, rng.choice(("explanation", "lc", "lc_titled", "icl"))).format(**names)
            yield from (opinion(rng, text, nouns)[0], judged_text(rng, text, nouns)[0], rng.choice(("Yes.", "No.")))
            yield ", ".join(f'"{t}"' for t in text.liked + text.disliked)

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """Return the untrained model. Two heads look one and two tokens back: the part of copying that is slow to form."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            attention_bias=True,
            initializer_range=0.05,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    attention, angles = model.model.layers[0].self_attn, model.model.rotary_emb.inv_freq
    with torch.no_grad():
        for head, back in enumerate((1, 2)):  # constant keys; queries that rotary positions shift by `back`
            at = slice(32 * head, 32 * head + 32)
            attention.q_proj.weight[at] = attention.k_proj.weight[at] = 0
            attention.k_proj.bias[at] = 6 * torch.cat([torch.ones(16), torch.zeros(16)])
            attention.q_proj.bias[at] = 6 * torch.cat([(back * angles).cos(), -(back * angles).sin()])
    return model


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save weights as float16 with a config that says float32: half the size, and loaded in the type of training."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")
