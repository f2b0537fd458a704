"""Sentences whose verdicts anyone can read off."""

import pytest

from expctr.sentences.verdicts import polarity, without_verdicts

LIKED = (
    "they will surely love it",
    "The user might enjoy it.",
    "they may well like it",
    "they'll love it",
    "The viewer will be pleased with it",
    "would be a good match",
    "will not dislike it",
    "It is a great match because it is never boring.",
    "He will enjoy it, although he may dislike the end.",
    "They hated the others, but should enjoy this one.",
)
DISLIKED = (
    "they will absolutely detest it",
    "They will probably not like it.",
    "they won’t enjoy it",
    "The user is unlikely to enjoy it",
    "The user is not likely to enjoy it",
    "they may not care for it",
    "They will be bored by it.",
    "This is not a good fit.",
    "He does not enjoy horror.",
    'They liked most of it and liked "Love Actually", so they will hate it.',
    'As for "Good Will Hunting", they could dislike it.',
)
NEITHER = ("", "They liked one and hated the other.", "It would be like Heat.", "Is it? They will. Love.")


@pytest.mark.parametrize(
    ("text", "expected"), [*((t, 1) for t in LIKED), *((t, -1) for t in DISLIKED), *((t, 0) for t in NEITHER)]
)
def test_polarity(text: str, expected: int) -> None:
    assert polarity(text) == expected


def test_words_of_titles_are_not_the_sentences_own() -> None:
    assert polarity("They will see Hate and love it.") == -1
    assert polarity("They will see Hate and love it.", ["Hate"]) == 1


def test_a_sentence_without_its_verdict_has_none() -> None:
    text = 'This viewer liked "Heat", so as for "Love", they will surely hate it.'
    assert without_verdicts(text) == 'This viewer liked "Heat", so as for "Love", they it.'
    for sentence in LIKED + DISLIKED:
        assert polarity(without_verdicts(sentence)) == 0 or "never" in sentence
