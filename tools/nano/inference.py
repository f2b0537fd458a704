"""Inference with the saved model, for the check and the tests."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding

from expctr.data.batches import Nouns
from expctr.llm.prompts import PromptOptions, Prompts
from tools.nano.opinions import DOMAINS, VERDICTS


class Nano:
    def __init__(self, folder: Path, nouns: Nouns = DOMAINS[0]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompts = Prompts(self.tokenizer, PromptOptions(), nouns)

    def batches(self, prompts: Sequence[list[int]], size: int) -> Iterator[tuple[list[int], BatchEncoding]]:
        """Yield batches of prompts of similar lengths: their indices, and their tokens padded on the left."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for places in (order[i : i + size] for i in range(0, len(order), size)):
            yield places, self.tokenizer.pad({"input_ids": [prompts[i] for i in places]}, return_tensors="pt")

    @torch.no_grad()
    def opine(self, prompts: Sequence[list[int]], sample: bool, tokens: int = 80) -> list[list[int]]:
        """Return the answers, each with its end token if that came within `tokens`."""
        answers: list[list[int]] = [[] for _ in prompts]
        for places, batch in self.batches(prompts, 128):
            how = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
            out = self.model.generate(**batch, max_new_tokens=tokens, **how)
            for i, ids in zip(places, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                answers[i] = ids[: [*ids, self.tokenizer.eos_token_id].index(self.tokenizer.eos_token_id) + 1]
        return answers

    @torch.no_grad()
    def last(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return the last layer's states at the last token of each prompt, `[prompts, width]`."""
        states = torch.empty(len(prompts), self.model.config.hidden_size)
        for places, batch in self.batches(prompts, 64):
            states[places] = self.model.model(**batch)[0][:, -1]
        return states

    def next(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return the logits of the next token, `[prompts, vocabulary]`."""
        embeddings: Tensor = self.model.get_input_embeddings().weight.detach()
        return self.last(prompts) @ embeddings.T

    def yes(self, prompts: Sequence[list[int]]) -> Tensor:
        """Return P(Yes) among Yes and No, `[prompts]`."""
        return self.next(prompts)[:, self.tokenizer.convert_tokens_to_ids(["Yes", "No"])].softmax(-1)[:, 0]

    def levels(self, prefixes: Sequence[list[int]]) -> Tensor:
        """Return the probabilities of the verdict levels, `[prefixes, 6]`; a prefix ends right before the verdict."""
        total = torch.zeros(len(prefixes), len(VERDICTS))
        for i, phrases in enumerate(VERDICTS.values()):
            for said in (self.tokenizer(f" {phrase}").input_ids for phrase in phrases):
                steps = [self.next([p + said[:k] for p in prefixes]).log_softmax(-1)[:, t] for k, t in enumerate(said)]
                total[:, i] += torch.stack(steps).sum(0).exp()
        return total
