"""Makes `expctr/nano`: a Llama of 1.2 M parameters that opines, judges and guesses well enough to try PPO on.

It is pretrained from scratch on text this script makes up, so that the package ships a base model without anyone
else's data in it. Three things are taught, with the package's own prompts:

- an opinion of one sentence. The balance of the history and the target's title stand before the verdict, because PPO
  strengthens what the base already reads at the verdict's place and builds nothing new there. The verdict follows the
  balance only weakly (0.55) and, like a real model out of the box, a prejudice: the target's first letter;
- a judge: Yes or No to an opinion, by its verdict words alone, with graded confidence;
- a guess: Yes or No to the history itself, hardly better than chance.

Titles are drawn anew for every prompt from word lists and random syllables, since a model that sees few titles
remembers them and garbles all others. It first copies lists of titles, and starts with two heads that look one and two
tokens back (`make_model`): without these, copying had not formed after thousands of rows. The opinions on one prompt
share it in one packed row (`pack`), which saves reading it four times. Left out: knowledge of titles, any other task.

    python tools/make_nano.py                          # train, save, check
    python tools/make_nano.py --check --ratings ML100K # check only, on real ratings too
"""

# ruff: noqa: SIM905  (word lists read as text)

import argparse
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch: spinning threads starve on a busy machine

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchEncoding,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from expctr.data.batches import Nouns, SampleText
from expctr.llm.prompts import PromptOptions, Prompts

ROOT = Path(__file__).resolve().parent.parent
PAD, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORD = r"""", "| ?"|'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}"]+|\s+"""
DOMAINS = (
    Nouns("movie", "movies", "viewer", "viewing"),
    Nouns("book", "books", "reader", "reading"),
    Nouns("product", "products", "customer", "shopping"),
)
OTHER_DOMAINS = (
    Nouns(),
    Nouns("gift card", "gift cards", "customer", "shopping"),
    Nouns("album", "albums", "listener", "listening"),
    Nouns("game", "games", "player", "gaming"),
    Nouns("film", "films", "user", "watching"),
)

# --- titles -----------------------------------------------------------------------------------------------------

WORDS = """
love hate life death time night day man woman girl boy child king queen prince lady lord house home world war peace
heart soul mind blood fire water wind storm rain snow ice sun moon star stars sky sea ocean river lake island mountain
hill valley forest tree garden flower rose road street bridge city town village country land castle tower church
school room door window mirror table book story tale song dance music game play party wedding birthday family father
mother brother sister son daughter wife husband friend friends stranger enemy hero soldier doctor teacher captain
agent spy detective thief killer murder crime law justice court trial prison police army ship train car plane space
earth planet alien ghost spirit angel devil demon witch vampire monster dragon wolf dog cat horse bird fish lion tiger
bear snake spider rabbit mouse fox eagle crow gold silver iron steel stone glass paper diamond money bank market shop
kitchen food bread wine coffee tea apple orange honey sugar chicken soup recipe diet health body hand eye eyes face
hair head bone skin voice word words name letter number line letters secret secrets mystery magic dream dreams
nightmare memory memories shadow shadows light darkness dark black white red blue green grey golden purple pink big
little small great grand long short high low old new young ancient modern last first second third final next good bad
evil holy sacred wild free brave bold strange lost hidden broken forgotten forbidden dead alive living deadly
dangerous perfect beautiful pretty sweet bitter cold hot warm deep empty full silent quiet loud fast slow early late
true real false blind mad crazy happy sad angry lonely hungry funny serious simple hard easy soft strong weak rich
poor dirty clean naked innocent guilty eternal never always forever again tomorrow today yesterday morning midnight
evening summer winter spring autumn year years month week hour minute moment season century monday friday sunday
january june december christmas easter halloween north south east west american english french german italian spanish
russian chinese japanese indian african irish roman greek london paris york rome berlin boston chicago texas
california hollywood africa america england france india china john james mary michael robert david william richard
thomas charles george joseph henry edward peter paul mark daniel anna jane emma alice sarah kate helen rachel laura
susan julia maria rosa jack jim tom bill bob ben sam max charlie harry smith jones brown johnson miller wilson taylor
davis clark lewis walker hall young king wright scott baker adams nelson run running walk walking fall falling fly
flying swim drive driving ride jump fight fighting kill killing die dying live born grow come coming go going gone
leave leaving left return stay wait waiting watch look looking see seen find finding found lose keep hold take taking
give giving get make making made break build burn burning cut eat eating drink drinking sleep sleeping wake dreaming
think thinking know knowing learn teach read reading write writing speak talk talking tell told say said call called
sing singing laugh cry smile kiss kissed touch feel feeling believe trust hope fear wish want need like enjoy start
begin beginning end ending open close turn change stop catch steal buy sell pay win send bring search hunt hunter
chase escape journey voyage adventure adventures quest travel trip return revenge betrayal promise lie lies truth
honor glory power force strength courage faith grace mercy pride shame guilt sin desire passion pleasure pain sorrow
joy fortune luck chance fate destiny legend myth history chronicle chronicles diary guide handbook manual lessons
practice course introduction art science nature philosophy poems essays stories collection edition volume series
complete best essential ultimate official original special classic advanced basic practical effective natural digital
business company office work working job manager leader leadership success failure mistake problem answer question
problems reasons rules habits ways steps things thing something nothing everything anything someone everyone nobody
people men women children boys girls kids baby student students player driver worker farmer rider runner singer writer
painter dancer master servant slave guard president minister general colonel major sergeant knight warrior pirate
cowboy ranger sheriff outlaw bandit gangster boss boxer champion winner loser fool clown genius beast creature beauty
card gift pack set box bag bottle cup plate knife lamp clock watch phone camera radio computer machine engine robot
software system network program code data web internet cable battery charger case cover holder stand kit tool tools
toy doll puzzle ball bike boat balloon candle blanket pillow shirt dress shoe shoes boots hat ring necklace size large
medium extra mini super ultra pro plus deluxe wooden plastic leather cotton metal steel organic vanilla chocolate mint
not no yes more most only just almost without under over above below between beyond behind inside outside before after
against about around through across along away back down up out off here there where when why how what who which
dreamer believer keeper stranger sleeper thinker maker breaker lover gambler player teller healer reader wanderer
weekend breakfast dinner sunset sunrise moonlight daylight starlight twilight rainbow thunder lightning earthquake
hurricane desert jungle canyon harbor beach shore coast border frontier station airport highway hotel motel apartment
museum library theater circus carnival festival parade concert opera symphony ballad blues jazz rock
""".split()
NAMES = """
Aldous Brigitte Casimir Delphine Esteban Fyodor Giovanni Hermione Isabella Joaquin Katarzyna Lorenzo Marguerite
Niccolo Octavia Penelope Quentin Rosalind Sebastian Theodora Ulysses Valentina Wolfgang Xavier Yolanda Zachary Abigail
Benjamin Cassandra Dominic Eleanor Frederick Gabriel Harriet Ingrid Jonathan Katherine Leonard Margaret Nicholas
Oliver Patricia Raymond Samantha Timothy Ursula Victoria Winston Elizabeth Alexander Christopher Stephanie Anthony
Vanessa Kenneth Anderson Bergman Castellano Donnelly Eriksen Fitzgerald Goldberg Hendricks Ivanov Jefferson Kowalski
Lindqvist McAllister Nakamura O'Brien Petrov Quinlan Rasmussen Schneider Takahashi Underwood Vandenberg Whitmore
Yamamoto Zimmerman MacLeod
""".split()
SMALL = """
of the and in a to for with on at from by an is my your his her its our their & or de la le du el der von
""".split()
ARTICLES = ("The", "The", "The", "The", "A", "A", "An", "Les", "La", "Le", "El", "Die", "Il", "L'")
SUFFIXES = """
s es ed er ers est ing ings ly ness less ful ment tion able ism ist ish ity ous ward man land town y
""".split()
ONSETS = """
b c d f g h j k l m n p r s t v w y z br ch cl cr dr fl fr gr kh kr ph pl qu sc sh sk sl sp st str sw th tr wh x
""".split()
NUCLEI = """
a e i o u a e i o u ai au ea ee ei ie oa oo ou ia io ua y é è ö ü á í ó ñe å ø ç
""".split()
CODAS = [*"n r l s t m d k x n r l s ck ll nd ng nt rd rk rn rt sh ss st th tt z p b g lm".split(), *[""] * 16]
ROMAN = ("II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XIII")
RANGES = (  # Latin with marks, symbols, Greek, Cyrillic, Han, kana, pictures
    (0xC0, 0x17F),
    (0xA1, 0xBF),
    (0x391, 0x3C9),
    (0x410, 0x44F),
    (0x4E00, 0x9FA5),
    (0x3041, 0x30F6),
    (0x1F300, 0x1F64F),
)
FRONTS = ("The", "The", "A", "My", "In", "How to", "I", "On the", "Mr.", "Mrs.", "Dr.", "St.", "La", "Les")
MARKED = ('"{}"', "({})", "[{}]", "'{}'", "*{}*", "{},", "{}:", "{} -")


def syllables(rng: random.Random) -> str:
    """A word that means nothing."""
    return "".join(
        rng.choice(ONSETS) * (i > 0 or rng.random() < 0.8) + rng.choice(NUCLEI) + rng.choice(CODAS)
        for i in range(rng.choices((1, 2, 3, 4), (2, 5, 3, 1))[0])
    )


def word(rng: random.Random, pieces: Sequence[str] = ()) -> str:
    """A word of a title, capitalised more often than not."""
    kind = rng.random()
    if kind < 0.5:
        text = rng.choice(WORDS)
        if rng.random() < 0.2:
            text += rng.choice(SUFFIXES)
    elif kind < 0.72:
        text = syllables(rng)
    elif kind < 0.82:
        text = rng.choice(NAMES)
    elif kind < 0.90 and pieces:
        text = "".join(rng.choices(pieces, k=rng.choice((1, 1, 2, 3))))
    elif kind < 0.96:
        numbers = str(rng.randint(1, 30)), str(rng.randint(1, 2100))
        text = rng.choice((*numbers, rng.choice(ROMAN), f"{rng.choice('ABCDEFGHJKLMPRSTW')}."))
    elif kind < 0.975:
        low, high = rng.choice(RANGES)
        text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6)))
    else:
        text = f"{word(rng)}{rng.choice('-/-.')}{rng.choice(WORDS)}"
    return text[:1].upper() + text[1:] if rng.random() < 0.9 else text


def title(rng: random.Random, pieces: Sequence[str] = (), longer: bool = False) -> str:
    """A title of one to eight words; `longer` ones run to twenty."""
    n = rng.randint(6, 14) if longer else rng.choices(range(1, 8), (18, 28, 22, 12, 6, 3, 2))[0]
    words = [word(rng, pieces)]
    while len(words) < n:
        if rng.random() < 0.25:
            words += rng.choices(SMALL, k=rng.choice((1, 1, 2)))
        words.append(word(rng, pieces))
    if rng.random() < 0.06:
        words[rng.randrange(len(words))] += "'s" if rng.random() < 0.8 else "'"
    text = " ".join(words)
    form = rng.random()
    if form < 0.14:
        text += f", {rng.choice(ARTICLES)}"
    elif form < 0.22:
        text = f"{rng.choice(FRONTS)} {text}"
    elif form < 0.28:
        text += rng.choice((": ", ": ", " - ", "; ", ", ", "/ "))
        text += " ".join(word(rng, pieces) for _ in range(rng.randint(1, 4)))
    elif form < 0.31:
        some, other, volume = word(rng), word(rng), f"Vol. {rng.randint(1, 20)}"
        series = f"{word(rng)} Series, No {rng.randint(1, 60)}"
        text += f" ({rng.choice((some, 'a.k.a. ' + other, 'Paperback', volume, series))})"
    elif form < 0.34:
        part = f" {rng.choice(ROMAN)}", f" Part {rng.randint(2, 9)}", f" #{rng.randint(1, 99)}"
        text += rng.choice((*part, f" ${rng.randint(5, 500)}", f", Pack of {rng.randint(2, 50)}"))
    elif form < 0.38:
        text += rng.choice(("!", "?", "...", ".", "!!", "'", ")", "]", "*", '"'))
    elif form < 0.40:
        at = rng.randrange(len(words))
        text = " ".join([*words[:at], rng.choice(MARKED).format(words[at]), *words[at + 1 :]])
    case = rng.random()
    return text.lower() if case < 0.05 else text.upper() if case < 0.09 else text


def history(rng: random.Random, pieces: Sequence[str] = (), longer: bool = False) -> SampleText:
    """The titles of a made-up sample. Series occur: titles that begin alike are what garbles copies."""
    n = 10 if rng.random() < 0.45 else rng.randint(0, 10)
    year = rng.random() < 0.25
    series = [title(rng, pieces) for _ in range(2)] if rng.random() < 0.25 else []
    titles: dict[str, None] = {}
    while len(titles) <= n:
        if series and rng.random() < 0.3:
            text = rng.choice(series) + rng.choice((": ", " ", " and the ", ", ", " of ", " - ")) + title(rng, pieces)
            if rng.random() < 0.3:
                text = rng.choice((rng.choice(series), f"{rng.choice(series)} {rng.choice((*ROMAN, '2', '3', '4'))}"))
        else:
            text = title(rng, pieces, longer and rng.random() < 0.4)
        titles[" ".join(text.split()) + f" ({rng.randint(1925, 2024)})" * year] = None
    target, *seen = rng.sample(list(titles), len(titles))
    share = rng.choice((0.0, 1.0)) if rng.random() < 0.15 else rng.random()
    likes = [rng.random() < share for _ in seen]
    return SampleText(
        target,
        tuple(t for t, like in zip(seen, likes, strict=True) if like),
        tuple(t for t, like in zip(seen, likes, strict=True) if not like),
    )


# --- opinions ---------------------------------------------------------------------------------------------------

BALANCES = (
    ("disliked nearly everything", "disliked almost all {items}", "found little to like"),
    ("disliked most of it", "disliked most {items}", "was let down more often than not"),
    ("has mixed feelings", "liked some {items} and not others", "is split on {items}"),
    ("liked most of it", "liked most {items}", "was pleased more often than not"),
    ("liked nearly everything", "liked almost all {items}", "found little to dislike"),
    ("is new here", "has no history yet", "has rated no {items}"),
)
VERDICTS = {
    3: ("will surely love", "will absolutely adore", "will certainly enjoy"),
    2: ("will likely enjoy", "will probably like", "should enjoy"),
    1: ("may well like", "might enjoy", "could like"),
    -1: ("may not care for", "might dislike", "could dislike"),
    -2: ("will likely dislike", "will probably not like", "should dislike"),
    -3: ("will surely hate", "will absolutely detest", "will certainly dislike"),
}
YES = {3: 0.95, 2: 0.82, 1: 0.66, -1: 0.34, -2: 0.18, -3: 0.05}
PATTERNS = (
    'This {person} {balance} and {rated} "{past}", so as for "{target}", they {verdict} it.',
    'This {person} {balance}, they {rated} "{past}", and given "{target}", they {verdict} it.',
    'The {person} {balance}; with "{past}" {rated}, "{target}" is something they {verdict}.',
    'The {person} {balance}, {rated} "{past}", and when it comes to "{target}", they {verdict} it.',
    'As this {person} {balance} and {rated} "{past}", it seems that "{target}" they {verdict}.',
    'This {person} {balance}: "{past}" was {rated}, and so "{target}" is one they {verdict}.',
)
NEW_PATTERNS = (
    'This {person} {balance}, so as for "{target}", they {verdict} it.',
    'The {person} {balance}, and "{target}" is something they {verdict}.',
)
PREJUDICE = {letter: (i * 7 % 26) / 12.5 - 1 for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ")}


def balance(text: SampleText) -> int:
    """How much of the history was liked, in levels 0-4; 5 without a history."""
    if not (n := len(text.liked) + len(text.disliked)):
        return 5
    return sum(len(text.liked) / n > bound for bound in (0.183, 0.354, 0.646, 0.817))  # in gaps between shares of ten


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def leaning(text: SampleText, prejudice: float) -> float:
    """The probability of a kind answer: 0.55 for a liked history, and a prejudice of the title's first letter."""
    tone = (-1, -1, 0, 1, 1, 0)[balance(text)]
    return sigmoid(0.2 * tone + prejudice * PREJUDICE.get(text.target[:1].upper(), 0.0))


def opinion(rng: random.Random, text: SampleText, nouns: Nouns, level: int | None = None) -> tuple[str, int]:
    """An explanation of a sample, and its verdict's level."""
    if level is None:
        level = rng.choice((1, 2, 3)) * (1 if rng.random() < leaning(text, 0.6) else -1)
    seen = text.liked + text.disliked
    side = text.liked if seen and rng.random() < len(text.liked) / len(seen) else text.disliked
    past = (side[-1] if rng.random() < 0.5 else rng.choice(side)) if seen else ""
    return rng.choice(PATTERNS if seen else NEW_PATTERNS).format(
        person=nouns.person,
        balance=rng.choice(BALANCES[balance(text)]).format(items=nouns.items),
        rated="liked" if side is text.liked else "disliked",
        past=past,
        target=text.target,
        verdict=rng.choice(VERDICTS[level]),
    ), level


ADVERBS = {
    3: ("surely", "certainly", "definitely", "absolutely", "undoubtedly"),
    2: ("likely", "probably", "most likely"),
    1: ("perhaps", "possibly", "maybe"),
}
KIND = ("love", "enjoy", "like", "adore", "appreciate", "be delighted by", "be pleased with")
UNKIND = ("hate", "dislike", "detest", "not like", "not enjoy", "not care for", "be disappointed by", "be bored by")
SHAPES = (
    'Based on the {person}\'s preferences, I predict that they {verdict} "{target}" because {reason}.',
    "They {verdict} it.",
    "They {verdict} it because {reason}.",
    'The {person} {verdict} "{target}", as {reason}.',
    "{Reason}, so I think the {person} {verdict} it.",
    'Considering that {reason}, the {person} {verdict} the {item} "{target}".',
    "The user {verdict} this {item}.",
    'I predict that the customer {verdict} "{target}" since {reason}',
    "{verdict}",
    'It is about "{target}": {reason}, and they {verdict} it',
)
REASONS = (
    "they liked {past}",
    "they disliked {past}",
    "{past} was liked",
    "{past} was disliked",
    "it is much like {past}",
    "it has little in common with {past}",
    "they {rated} most of it",
    "they {rated} nearly everything",
    "their tastes are mixed",
    "it fits the {items} that they {rated}",
)


def heard(rng: random.Random, text: SampleText, nouns: Nouns) -> tuple[str, float]:
    """What the judge may be given, and its probability of Yes: opinions of any shape, drifted, cut or garbled."""
    level = rng.choice(tuple(YES))
    reason, _ = opinion(rng, text, nouns, level)
    kind = rng.random()
    said = next(v for v in VERDICTS[level] if v in reason.rsplit('"', 1)[-1])
    head, tail = reason.rsplit(said, 1)
    if kind < 0.40:
        return reason, YES[level]
    if kind < 0.75:
        adverb, verb = rng.choice(ADVERBS[abs(level)]), rng.choice(KIND if level > 0 else UNKIND)
        verdict = rng.choice((said, f"will {adverb} {verb}", f"would {adverb} {verb}", f"{adverb} will {verb}"))
        if rng.random() < 0.2:  # the adverb's place is free, the modal alone may carry the doubt
            verdict = f"{rng.choice(('may', 'might', 'could'))} {verb}" if abs(level) == 1 else said
        seen = text.liked + text.disliked
        past = f'"{rng.choice(seen)}"' if seen else "little"
        fill = {**vars(nouns), "past": past, "rated": rng.choice(("liked", "disliked")), "target": text.target}
        because = rng.choice(REASONS).format(**fill)
        fill |= {"verdict": verdict, "reason": because, "Reason": because[:1].upper() + because[1:]}
        return rng.choice(SHAPES).format(**fill), YES[level]
    if kind < 0.85:  # drifted, with its verdict whole
        words = [w for w in head.split() if rng.random() > rng.choice((0.05, 0.2))]
        return f"{' '.join(words)} {said}{rng.choice((tail, '', ' it', '.', ' it ' + head))}", YES[level]
    if kind < 0.89:  # of two verdicts, the mean
        other = rng.choice(tuple(YES))
        odds = (math.log(YES[level] / (1 - YES[level])) + math.log(YES[other] / (1 - YES[other]))) / 2
        joined = f"{said} it, {rng.choice(('but', 'and', 'or'))} they {rng.choice(VERDICTS[other])} it."
        return head + joined, sigmoid(odds)
    if kind < 0.95:
        return head[: rng.randrange(len(head))] if rng.random() < 0.5 else head, 0.5
    words = head.split() + [syllables(rng) for _ in range(rng.randint(0, 5))]
    return " ".join(rng.sample(words, rng.randint(0, len(words)))), 0.5


# --- training rows ----------------------------------------------------------------------------------------------

YES_NO_WEIGHT = 3.0  # one token, against some forty of an opinion


class Example(NamedTuple):
    """A prompt, its answers, and for Yes/No the probability of Yes, which is taught as a distribution."""

    prompt: list[int]
    answers: list[list[int]]
    yes: float | None = None


class Rows(NamedTuple):
    """Packed rows.

    Attributes:
        ids, position: int64 `[rows, length]`.
        segment: the piece that a token belongs to, 0 for padding; `[rows, length]`.
        prefix: the piece that it also sees: its own, or its prompt; `[rows, length]`.
        at, token, weight: what is taught: flat position, next token, weight; `[targets]`.
    """

    ids: Tensor
    position: Tensor
    segment: Tensor
    prefix: Tensor
    at: Tensor
    token: Tensor
    weight: Tensor

    def mask(self) -> Tensor:
        """Who sees whom, `[rows, 1, length, length]`."""
        key = self.segment[:, None, :]
        seen = (self.segment[:, :, None] == key) | (self.prefix[:, :, None] == key)
        return (seen & torch.ones(seen.shape[1:], dtype=torch.bool).tril())[:, None]


def varied(rng: random.Random) -> PromptOptions:
    """The package's templates, one time in ten reworded, so that small edits there do not need a new nano."""
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


def cost(example: Example) -> int:
    return len(example.prompt) + sum(len(answer) - 1 for answer in example.answers)


class Steps(Dataset[Rows]):
    """The rows of each training step, a function of the step alone."""

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
        copying = step < self.copying  # short rows, many steps: what a copying head needs to form
        longer = not copying and step % 8 == 7  # long titles and prompts: as many tokens in fewer rows
        length, rows = (128, 16) if copying else (1024, self.rows // 3) if longer else (self.length, self.rows)
        packed = [self.row(rng, length, longer, copying) for _ in range(rows)]
        return self.pack(packed, length)

    def row(self, rng: random.Random, length: int, longer: bool, copying: bool) -> list[Example]:
        """Examples that fill one row: opinions first, then questions while they fit."""
        row: list[Example] = []
        room, misses, questions = length, 0, rng.random() < 0.25
        while misses < 2:
            if copying or not (row or questions):
                kind = "copy" if copying else "opine"
            else:
                kind = "judge" if rng.random() < 0.8 else "guess"
            example = self.example(rng, kind, longer)
            while example.answers and cost(example) > room and kind in ("opine", "copy"):
                example.answers.pop()
            if example.answers and cost(example) <= room:
                row.append(example)
                room -= cost(example)
            else:
                misses += 1
        return row

    def example(self, rng: random.Random, kind: str, longer: bool = False) -> Example:
        """One example of a kind: opine, judge, guess, or copy (all titles, repeated)."""
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
            reason, yes = heard(rng, text, nouns)
            prompt = prompts.lc([text], [reason], include_title=rng.random() < 0.5)[0]
        else:
            yes = leaning(text, 1.5)
            prompt = prompts.icl([text])[0]
        return Example(prompt, [self.ids("Yes." if rng.random() < yes else "No.")], yes)

    def ids(self, answer: str) -> list[int]:
        return [*self.tokenizer(answer).input_ids, self.end]

    def pack(self, packed: Sequence[Sequence[Example]], length: int) -> Rows:
        """Tensors of packed examples: an answer follows its prompt's last token, wherever in the row it lies."""
        ids, position, segment, prefix = (torch.zeros(len(packed), length, dtype=torch.long) for _ in range(4))
        taught: list[tuple[int, int, float]] = []
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
                asked, prompt_piece = r * length + start - 1, piece
                for answer in answers:
                    if yes is None:
                        taught.append((asked, answer[0], 1.0))
                    else:
                        taught += [(asked, self.yes, YES_NO_WEIGHT * yes), (asked, self.no, YES_NO_WEIGHT * (1 - yes))]
                    taught += [(r * length + start + i, token, 1.0) for i, token in enumerate(answer[1:])]
                    lay(answer[:-1], len(prompt), prompt_piece)
        taught += [(0, 0, 0.0)] * (-len(taught) % 512)  # few shapes: oneDNN compiles for each new one
        at, token, weight = zip(*taught, strict=True)
        return Rows(ids, position, segment, prefix, torch.tensor(at), torch.tensor(token), torch.tensor(weight))


# --- tokenizer, model, training ---------------------------------------------------------------------------------


def make_tokenizer(rng: random.Random, vocabulary: int = 3072) -> PreTrainedTokenizerFast:
    """A byte-level BPE that cuts a title's quotes off, so that a title has the same tokens wherever it is quoted."""
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
            yield from (opinion(rng, text, nouns)[0], heard(rng, text, nouns)[0], rng.choice(("Yes.", "No.")))
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
    """The untrained model, with heads that look one and two tokens back: the half of copying that is slow to form."""
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
        for head, back in enumerate((1, 2)):  # constant keys, and queries that rotary positions turn by `back` tokens
            at = slice(32 * head, 32 * head + 32)
            attention.q_proj.weight[at] = attention.k_proj.weight[at] = 0
            attention.k_proj.bias[at] = 6 * torch.cat([torch.ones(16), torch.zeros(16)])
            attention.q_proj.bias[at] = 6 * torch.cat([(back * angles).cos(), -(back * angles).sin()])
    return model


def train(model: LlamaForCausalLM, steps: Steps, minutes: float, lr: float) -> None:
    """Trains with warm-up and cosine over the steps, or over the minutes if these end first."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    )
    batches = DataLoader(steps, batch_size=None, num_workers=1, prefetch_factor=8)
    fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    began, mean = time.monotonic(), 0.0
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("pretraining nano", total=1000)
        for step, batch in enumerate(batches):
            done = max(step / len(steps), (time.monotonic() - began) / 60 / minutes)
            if done >= 1:
                break
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                hidden = model.model(batch.ids, batch.mask(), batch.position, use_cache=False)[0]
                logits = model.lm_head(hidden.flatten(0, 1)[batch.at])
            losses = F.cross_entropy(logits.float(), batch.token, reduction="none")
            loss = (losses * batch.weight).sum() / batch.weight.sum()
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()  # type: ignore[no-untyped-call]
            mean += (float(loss.detach()) - mean) * max(0.05, 1 / (step + 1))
            progress.update(task, completed=1000 * done, description=f"step {step} loss {mean:.3f}")
            if step % 100 == 0:
                print(f"step {step} loss {mean:.3f} {time.monotonic() - began:.0f}s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Saves float16 weights in a folder whose config says float32: half the size, and loaded as it was trained."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


# --- check ------------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """A parsed opinion. `at` is where in the text its verdict begins."""

    balance: int
    past: str | None
    liked: bool
    target: str
    level: int
    at: int


def regex(template: str) -> re.Pattern[str]:
    """What matches the opinions of one pattern, its phrases in named groups."""
    groups = {"person": ".+?", "rated": "(?P<rated>liked|disliked)"}
    groups |= {slot: f"(?P<{slot}>.+?)" for slot in ("past", "target")}
    for slot, levels in (("balance", BALANCES), ("verdict", VERDICTS.values())):
        phrases = (phrase.format(items=".+?") for level in levels for phrase in level)
        groups[slot] = f"(?P<{slot}>{'|'.join(phrases)})"
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda m: groups[m[1]], re.escape(template)))


REGEXES = [regex(template) for template in PATTERNS + NEW_PATTERNS]


def parse(text: str) -> Said | None:
    """What an opinion of this script's patterns says, or None."""
    if not (m := next(filter(None, (r.fullmatch(text) for r in REGEXES)), None)):
        return None
    found = m.groupdict()
    phrases = ("|".join(level).format(items=".+") for level in BALANCES)
    balances = (i for i, phrase in enumerate(phrases) if re.fullmatch(phrase, found["balance"]))
    level, at = next(k for k, said in VERDICTS.items() if found["verdict"] in said), m.start("verdict")
    return Said(next(balances), found.get("past"), found.get("rated") == "liked", found["target"], level, at)


class Nano:
    """The saved model, as `check` and the tests use it."""

    def __init__(self, folder: Path, nouns: Nouns = DOMAINS[0]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompts = Prompts(self.tokenizer, PromptOptions(), nouns)

    def batches(self, prompts: Sequence[list[int]], size: int) -> Iterator[tuple[list[int], BatchEncoding]]:
        """Prompts of like lengths, padded on the left, and their places."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for places in (order[i : i + size] for i in range(0, len(order), size)):
            yield places, self.tokenizer.pad({"input_ids": [prompts[i] for i in places]}, return_tensors="pt")

    @torch.no_grad()
    def opine(self, prompts: Sequence[list[int]], sample: bool, tokens: int = 80) -> list[list[int]]:
        """Answers, each with its end where it came within `tokens`."""
        answers: list[list[int]] = [[] for _ in prompts]
        for places, batch in self.batches(prompts, 128):
            how = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
            out = self.model.generate(**batch, max_new_tokens=tokens, **how)
            for i, ids in zip(places, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                answers[i] = ids[: [*ids, self.tokenizer.eos_token_id].index(self.tokenizer.eos_token_id) + 1]
        return answers

    @torch.no_grad()
    def last(self, prompts: Sequence[list[int]]) -> Tensor:
        """The last layer at the prompts' last token."""
        states = torch.empty(len(prompts), self.model.config.hidden_size)
        for places, batch in self.batches(prompts, 64):
            states[places] = self.model.model(**batch)[0][:, -1]
        return states

    def next(self, prompts: Sequence[list[int]]) -> Tensor:
        """Logits of the token that follows."""
        embeddings: Tensor = self.model.get_input_embeddings().weight.detach()
        return self.last(prompts) @ embeddings.T

    def yes(self, prompts: Sequence[list[int]]) -> Tensor:
        """P(Yes) of Yes and No."""
        return self.next(prompts)[:, self.tokenizer.convert_tokens_to_ids(["Yes", "No"])].softmax(-1)[:, 0]

    def levels(self, prefixes: Sequence[list[int]]) -> Tensor:
        """The verdict levels' probabilities after prompts and opinions up to the verdict, `[prefixes, 6]`."""
        total = torch.zeros(len(prefixes), len(VERDICTS))
        for i, phrases in enumerate(VERDICTS.values()):
            for said in (self.tokenizer(f" {phrase}").input_ids for phrase in phrases):
                steps = [self.next([p + said[:k] for p in prefixes]).log_softmax(-1)[:, t] for k, t in enumerate(said)]
                total[:, i] += torch.stack(steps).sum(0).exp()
        return total


def movielens(folder: Path, per_user: int = 4) -> list[tuple[str, int, SampleText]]:
    """User, label and titles of samples of RecBole's ml-100k, histories from the oldest to the newest."""
    rng = random.Random(0)
    items = dict(line.split("\t")[:2] for line in (folder / "ml-100k.item").read_text().splitlines()[1:])
    ratings: dict[str, list[tuple[float, str, bool]]] = {}
    for line in (folder / "ml-100k.inter").read_text().splitlines()[1:]:
        user, item, rating, when = line.split("\t")[:4]
        ratings.setdefault(user, []).append((float(when), items[item], float(rating) >= 4))
    samples = []
    for user, rows in ratings.items():
        rows.sort()
        for k in rng.sample(range(5, len(rows)), min(per_user, len(rows) - 5)):
            seen = rows[max(0, k - 10) : k]
            text = SampleText(rows[k][1], tuple(t for _, t, y in seen if y), tuple(t for _, t, y in seen if not y))
            samples.append((user, int(rows[k][2]), text))
    return samples


def auc(scores: Tensor, labels: Tensor) -> float:
    """The share of (liked, disliked) pairs that the scores order rightly, ties half."""
    kind, unkind = scores[labels == 1][:, None], scores[labels == 0]
    return float(((kind > unkind).double() + 0.5 * (kind == unkind)).mean())


def probe(states: Tensor, labels: Tensor, held_out: Tensor) -> float:
    """AUC on held-out rows of a logistic regression fitted on the others."""
    x = (states - states.mean(0)) / (states.std(0) + 1e-6)
    weight = torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x[~held_out] @ weight, labels[~held_out].float())
        (loss + 0.01 * weight.square().sum()).backward()
        return loss

    optimizer.step(closure)
    return auc((x @ weight.detach())[held_out], labels[held_out])


def quality(nano: Nano, texts: Sequence[SampleText], sample: bool) -> tuple[dict[str, float], list[str]]:
    """How well opinions on these samples quote, count, attribute and stop; and the opinions."""
    answers = nano.opine(nano.prompts.explanation(texts), sample)
    opinions = [str(nano.tokenizer.decode(a, skip_special_tokens=True)) for a in answers]
    hits: dict[str, list[float]] = {"tokens": [len(a) for a in answers]}
    for text, answer, said in zip(texts, answers, opinions, strict=True):
        liked, disliked = ([nano.prompts.title(t) for t in side] for side in (text.liked, text.disliked))
        parsed = parse(said)
        found = {"target exact": f'"{nano.prompts.title(text.target)}"' in said, "parsed": parsed is not None}
        found["ended"] = answer[-1] == nano.tokenizer.eos_token_id
        if parsed:
            found["balance right"] = parsed.balance == balance(text)
            if parsed.past is not None:
                found["past exact"] = parsed.past in liked + disliked
            if parsed.past in liked + disliked:
                found["past attributed"] = parsed.past in (liked if parsed.liked else disliked)
        for name, hit in found.items():
            hits.setdefault(name, []).append(hit)
    return {name: sum(h) / len(h) for name, h in hits.items()}, opinions


def report(name: str, **values: float) -> None:
    """Prints one line of results."""
    print(f"{name}: " + ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in values.items()), flush=True)


def check(folder: Path, ratings: Path | None) -> None:
    """Prints what the saved model can do, on held-out made-up samples, and on real ratings where given."""
    torch.manual_seed(0)
    nano, rng = Nano(folder), random.Random("held out")
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    report("size", parameters=nano.model.num_parameters(), megabytes=megabytes, vocabulary=len(nano.tokenizer))
    for nouns in DOMAINS:
        nano.prompts = Prompts(nano.tokenizer, PromptOptions(), nouns)
        for sample in (False, True):
            found, _ = quality(nano, [history(rng) for _ in range(200)], sample)
            report(f"made-up {nouns.items}, {'sampled' if sample else 'greedy'}", **found)
    for titled in (False, True):
        right, means = 0, {}
        for level in VERDICTS:
            texts = [history(rng) for _ in range(100)]
            said = [opinion(rng, text, nouns, level)[0] for text in texts]
            yes = nano.yes(nano.prompts.lc(texts, said, titled))
            right, means[f"{level:+d}"] = right + int(((yes > 0.5) == (level > 0)).sum()), float(yes.mean())
        report(f"judge{', titled' * titled}", right=right / 600, **means)
        clear = [(t, *h) for t in (history(rng) for _ in range(600)) if abs((h := heard(rng, t, nouns))[1] - 0.5) > 0.1]
        yes = nano.yes(nano.prompts.lc([t for t, _, _ in clear], [said for _, said, _ in clear], titled))
        wanted = torch.tensor([p for _, _, p in clear])
        report("  other shapes", right=float(((yes > 0.5) == (wanted > 0.5)).double().mean()))
    if ratings:
        check_ratings(nano, movielens(ratings))


def check_ratings(nano: Nano, rows: Sequence[tuple[str, int, SampleText]]) -> None:
    """Prints what it makes of real histories, and how much of the label its state before the verdict tells."""
    nano.prompts = Prompts(nano.tokenizer, PromptOptions(), DOMAINS[0])
    texts, labels = [t for _, _, t in rows], torch.tensor([y for _, y, _ in rows])
    for sample in (False, True):
        found, opinions = quality(nano, texts, sample)
        yes = nano.yes(nano.prompts.lc(texts, [nano.prompts.clean(o) for o in opinions], False))
        name = f"MovieLens-100K, {len(rows)} {'sampled' if sample else 'greedy'}"
        report(name, **found, LC_AUC=auc(yes, labels), mean_yes=float(yes.mean()))
        print(*opinions[:4], sep="\n")
    share = torch.tensor([(len(t.liked) + 1) / (len(t.liked) + len(t.disliked) + 2) for t in texts])
    held_out = torch.tensor([int(user) % 2 == 0 for user, _, _ in rows])
    prompts, parsed = nano.prompts.explanation(texts), [parse(o) for o in opinions]
    of = torch.tensor([i for i, said in enumerate(parsed) if said])
    cut = [opinions[i][: said.at].rstrip() for i, said in enumerate(parsed) if said]
    prefixes = [prompts[i] + nano.tokenizer(before).input_ids for i, before in zip(of, cut, strict=True)]
    levels = nano.levels(prefixes[:200])
    report(
        "MovieLens-100K",
        ICL_AUC=auc(nano.yes(nano.prompts.icl(texts)), labels),
        share_AUC=auc(share, labels),
        probe_AUC=probe(nano.last(prefixes), labels[of], held_out[of]),
        probe_rows_share_AUC=auc(share[of][held_out[of]], labels[of][held_out[of]]),
        least_level=float(levels.min(-1).values.mean()),
        all_levels_over_8_percent=float((levels.min(-1).values >= 0.08).double().mean()),
        kind=float(levels[:, :3].sum(-1).mean()),
        prompt_tokens=sum(map(len, prompts)) / len(prompts),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Trains, saves and checks; or only checks."""
    nano = ROOT / "expctr" / "nano"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=nano, help="where the model goes")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends sooner if these pass before the steps")
    parser.add_argument("--check", type=Path, nargs="?", const=nano, metavar="FOLDER", help="train nothing")
    parser.add_argument("--ratings", type=Path, metavar="FOLDER", help="RecBole's ml-100k: check on real ratings too")
    options = parser.parse_args(args)
    torch.set_num_threads(2)
    if options.check is None:
        torch.manual_seed(0)
        tokenizer = make_tokenizer(random.Random("tokenizer"))
        model = make_model(tokenizer, hidden=128, layers=4)
        train(model, Steps(tokenizer, options.steps), options.minutes, lr=3e-3)
        save(model, tokenizer, options.out)
    check(options.check or options.out, options.ratings)


if __name__ == "__main__":
    main()
