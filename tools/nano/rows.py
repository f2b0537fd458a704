"""Training rows: prompts with their answers, packed into rows of equal length."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from expctr.data.batches import SampleText
from expctr.llm.prompts import PromptOptions, Prompts
from tools.nano.judgements import judged_text
from tools.nano.model import END, SPECIALS
from tools.nano.opinions import DOMAINS, OTHER_DOMAINS, leaning, opinion
from tools.nano.titles import history

YES_NO_WEIGHT = 3.0  # an answer of Yes or No is one token, an opinion about forty


class Example(NamedTuple):
    """A prompt and its answers; for Yes or No also the probability of Yes, which is the target distribution."""

    prompt: list[int]
    answers: list[list[int]]
    yes: float | None = None

    @property
    def size(self) -> int:
        """Its tokens in a row."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)


class Rows(NamedTuple):
    """Packed rows.

    Attributes:
        ids, position: int64 `[rows, length]`.
        segment: the piece that a token belongs to, 0 for padding, `[rows, length]`.
        prefix: the piece that it also attends to: its prompt or its own, `[rows, length]`.
        at, token, weight: the training targets: flat position, next token, weight, `[targets]`.
    """

    ids: Tensor
    position: Tensor
    segment: Tensor
    prefix: Tensor
    at: Tensor
    token: Tensor
    weight: Tensor

    def mask(self) -> Tensor:
        """Return which token attends to which, bool `[rows, 1, length, length]`."""
        key = self.segment[:, None, :]
        seen = (self.segment[:, :, None] == key) | (self.prefix[:, :, None] == key)
        return (seen & torch.ones(seen.shape[1:], dtype=torch.bool).tril())[:, None]


def varied(rng: random.Random) -> PromptOptions:
    """Return expctr's templates, edited in one case of ten, so that small edits there do not need a new nano."""
    options = PromptOptions()
    if rng.random() > 0.1:
        return options
    edits: tuple[Callable[[str], str], ...] = (
        lambda t: t.split(". ", 1)[-1],
        lambda t: t.split("\n", 1)[-1],
        lambda t: t.replace('"{target}"', "{target}"),
        lambda t: t.replace("\n", " "),
        lambda t: t.replace("customer", "{person}"),
        lambda t: t.replace("helpful online ", ""),
        lambda t: t.rsplit(" The answer", 1)[0],
        lambda t: t.replace("one sentence", "one short sentence"),
    )
    template = rng.choice(edits)(options.explanation)
    lc, titled = (t.replace("\n", " ") if rng.random() < 0.3 else t for t in (options.lc, options.lc_titled))
    none = rng.choice(("none", "none", "nothing yet", "-"))
    return replace(options, explanation=template, lc=lc, lc_titled=titled, none=none)


class Steps(Dataset[Rows]):
    """The rows of each training step, which depend on the step alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, steps: int, length: int = 384, rows: int = 16) -> None:
        self.tokenizer, self.steps, self.length, self.rows = tokenizer, steps, length, rows
        self.copying = 500
        self.yes, self.no, self.end = (tokenizer.get_vocab()[token] for token in ("Yes", "No", END))
        vocabulary = (str(tokenizer.decode([i])).strip() for i in range(len(SPECIALS), len(tokenizer)))
        self.pieces = sorted({piece for piece in vocabulary if piece.isprintable() and '"' not in piece and piece})

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Rows:
        rng = random.Random(f"nano {step}")
        copying = step < self.copying  # short rows and many steps let a copying head form
        longer = not copying and step % 8 == 7  # long titles and prompts: fewer rows with as many tokens
        length, rows = (128, 16) if copying else (1024, self.rows // 3) if longer else (self.length, self.rows)
        packed = [self.row(rng, length, longer, copying) for _ in range(rows)]
        return self.pack(packed, length)

    def row(self, rng: random.Random, length: int, longer: bool, copying: bool) -> list[Example]:
        """Return examples that fill one row: opinions first, then questions while they fit."""
        row: list[Example] = []
        room, misses, questions = length, 0, rng.random() < 0.25
        while misses < 2:
            if copying or not (row or questions):
                kind = "copy" if copying else "opine"
            else:
                kind = "judge" if rng.random() < 0.8 else "guess"
            example = self.example(rng, kind, longer)
            while example.answers and example.size > room and kind in ("opine", "copy"):
                example.answers.pop()
            if example.answers and example.size <= room:
                row.append(example)
                room -= example.size
            else:
                misses += 1
        return row

    def example(self, rng: random.Random, kind: str, longer: bool = False) -> Example:
        """Return one example of a kind: opine, judge, guess, or copy (repeat a list of titles)."""
        nouns = rng.choice(DOMAINS if rng.random() < 0.85 else OTHER_DOMAINS)
        prompts = Prompts(self.tokenizer, varied(rng), nouns)
        text = history(rng, self.pieces, longer)
        liked, disliked = (tuple(map(prompts.title, side)) for side in (text.liked, text.disliked))
        text = SampleText(prompts.title(text.target), liked, disliked)
        if kind == "copy":
            titles = [text.target, *text.liked][: rng.randint(1, 4)]
            line = ", ".join(f'"{t}"' for t in titles)
            return Example(prompts.encode(line), [self.ids(line)])
        if kind == "opine":
            return Example(prompts.explanation([text])[0], [self.ids(opinion(rng, text, nouns)[0]) for _ in range(4)])
        if kind == "judge":
            reason, yes = judged_text(rng, text, nouns)
            prompt = prompts.lc([text], [reason], include_title=rng.random() < 0.5)[0]
        else:
            yes = leaning(text, 1.5)
            prompt = prompts.icl([text])[0]
        return Example(prompt, [self.ids("Yes." if rng.random() < yes else "No.")], yes)

    def ids(self, answer: str) -> list[int]:
        return [*self.tokenizer(answer).input_ids, self.end]

    def pack(self, packed: Sequence[Sequence[Example]], length: int) -> Rows:
        """Return packed examples as tensors. An answer continues its prompt, wherever in the row it stands."""
        ids, position, segment, prefix = (torch.zeros(len(packed), length, dtype=torch.long) for _ in range(4))
        targets: list[tuple[int, int, float]] = []
        for r, row in enumerate(packed):
            start, piece = 0, 0

            def lay(tokens: list[int], first: int, sees: int, r: int = r) -> None:
                nonlocal start, piece
                piece, end = piece + 1, start + len(tokens)
                ids[r, start:end] = torch.tensor(tokens)
                position[r, start:end] = torch.arange(first, first + len(tokens))
                segment[r, start:end], prefix[r, start:end] = piece, sees or piece
                start = end

            for prompt, answers, yes in row:
                lay(prompt, 0, 0)
                last, prompt_piece = r * length + start - 1, piece
                for answer in answers:
                    if yes is None:
                        targets.append((last, answer[0], 1.0))
                    else:
                        targets += [(last, self.yes, YES_NO_WEIGHT * yes), (last, self.no, YES_NO_WEIGHT * (1 - yes))]
                    targets += [(r * length + start + i, token, 1.0) for i, token in enumerate(answer[1:])]
                    lay(answer[:-1], len(prompt), prompt_piece)
        targets += [(0, 0, 0.0)] * (-len(targets) % 512)  # few different shapes: oneDNN compiles a kernel for each
        at, token, weight = zip(*targets, strict=True)
        return Rows(ids, position, segment, prefix, torch.tensor(at), torch.tensor(token), torch.tensor(weight))
