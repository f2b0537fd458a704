"""What sentences say about the history, judged by hand."""

import pytest

from expctr.sentences.claims import claims_of

LIKED, DISLIKED = ("Heat", "Fargo", "Alien 3"), ("Casper", "Alien", "The Room")
CASES = {
    'The user liked "Heat" and will love "Up".': (1, []),
    'The user liked "Casper", so they will hate "Up".': (1, ["Casper"]),
    'They disliked "Heat" and "Casper", but loved "Fargo".': (3, ["Heat"]),
    'Since the user did not enjoy "Alien", "Up" is a poor match.': (1, []),
    'They never liked "Fargo".': (1, ["Fargo"]),
    'They didn’t like “Heat”; "Casper" is a film.': (1, ["Heat"]),
    'They were pleased more often than not, they disliked "Casper".': (1, []),
    'They liked some and not others and disliked "Casper".': (1, []),
    'They were let down more often than not and disliked "Casper".': (1, []),
    'They did not really like "Casper" and never loved "Alien".': (2, []),
    "They hated Casper and adored Alien 3.": (2, []),
    'They liked "Alien 3". "Alien" is older.': (1, []),
    'They will love "Casper".': (0, []),
    'With "Heat" in their history, they liked much.': (0, []),
    'The user disliked The Room. They liked "Alien".': (2, ["Alien"]),
    'This viewer has mixed feelings: "Casper" was disliked.': (1, []),
    'This viewer has mixed feelings: "Casper" was liked, so "Up" will be enjoyed.': (1, ["Casper"]),
    'They liked most of it: "Casper" was disliked.': (1, []),
    'They disliked most, "Heat" was not really liked, and "Fargo" was.': (1, ["Heat"]),
    '"Heat" and "Fargo" were loved, "Alien" wasn\'t enjoyed.': (3, []),
    '"Heat", "Fargo", and "Casper" have all been liked.': (3, ["Casper"]),
    'Because of "Casper", which the viewer did not like, and "Heat", that they loved.': (2, []),
    '"Heat" was disliked and they loved "Fargo".': (2, ["Heat"]),
    'The viewer liked most movies; with "Casper" liked, they will enjoy "Up".': (1, ["Casper"]),
    'With "Heat" and "Fargo" never enjoyed, they will hate "Up".': (2, ["Heat", "Fargo"]),
    'With "Heat" in mind, they disliked "Casper".': (1, []),
    '"Heat" they liked.': (0, []),
    '"Up" was liked, and "Casper" is a film.': (0, []),
    'Fans of "Heat" liked "Casper".': (1, ["Casper"]),
    'They were people who really loved "Heat".': (1, []),
    "": (0, []),
}


@pytest.mark.parametrize("text", CASES)
def test_claims_are_compared_with_the_history(text: str) -> None:
    count, wrong = CASES[text]
    assert claims_of(text, LIKED, DISLIKED) == (count, wrong)


def test_a_title_that_was_liked_and_disliked_is_no_claim() -> None:
    assert claims_of('They liked "Heat" and "Up".', ["Heat", "Up"], ["Heat"]) == (1, [])


def test_words_of_titles_claim_nothing() -> None:
    text = 'They liked "Heat", as did those who saw "The Man Who Hated Cats" and "Fargo".'
    assert claims_of(text, LIKED, DISLIKED) == (2, [])
