"""Generated titles, and histories made of them."""

import random
from collections.abc import Sequence
from pathlib import Path

from expctr.data.batches import SampleText


def read_words(name: str) -> list[str]:
    """The words of `words/NAME.txt`, in the file's order; a word that stands there twice is drawn twice as often."""
    return (Path(__file__).parent / "words" / f"{name}.txt").read_text(encoding="utf-8").split()


WORDS, NAMES, SMALL = read_words("words"), read_words("names"), read_words("small_words")
SUFFIXES, ONSETS, NUCLEI = read_words("suffixes"), read_words("onsets"), read_words("nuclei")
CODAS = [*read_words("codas"), *[""] * 16]

ARTICLES = ("The", "The", "The", "The", "A", "A", "An", "Les", "La", "Le", "El", "Die", "Il", "L'")
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
    return "".join(
        rng.choice(ONSETS) * (i > 0 or rng.random() < 0.8) + rng.choice(NUCLEI) + rng.choice(CODAS)
        for i in range(rng.choices((1, 2, 3, 4), (2, 5, 3, 1))[0])
    )


def word(rng: random.Random, pieces: Sequence[str] = ()) -> str:
    """Return a word of a title, usually capitalised. Some are made of `pieces`, tokens of the vocabulary."""
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
    """Return a title of one to eight words, or of up to twenty if `longer`."""
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
    """Return the titles of a generated sample.

    A quarter of the samples contain a series, because the model tends to garble titles that begin alike.
    """
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
    sides: tuple[list[str], list[str]] = ([], [])
    for one in seen:
        sides[rng.random() < share].append(one)
    disliked, liked = map(tuple, sides)
    return SampleText(target, liked, disliked)
