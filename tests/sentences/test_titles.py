"""Titles that sentences name, and those that they make up."""

import pytest

from expctr.data.batches import SampleText
from expctr.sentences.titles import Invented, TitleFinder, forms

CATALOGUE = ("Toy Story", "Toy Story 2", "Usual Suspects, The", "Fargo", "Casino", "It")
GIVEN = SampleText("Usual Suspects, The", ("Toy Story", "It", "Alien"), ("Star Wars: Episode IV",))
FIND = TitleFinder(CATALOGUE, ["Tom Hanks"]).find


@pytest.mark.parametrize(
    ("text", "history", "target"),
    [
        ('They liked "Toy Story", so as for "Usual Suspects, The", they like it.', True, True),
        ("Fans like The Usual Suspects and Alien.", True, True),
        ('It seems that "The Usual Suspects" is for them.', False, True),
        ('"It" was liked.', True, False),
        ("The “Star Wars” fan.", True, False),
        ("Alien: Resurrection.", False, False),
        ("", False, False),
    ],
)
def test_what_is_named(text: str, history: bool, target: bool) -> None:
    found = FIND(text, GIVEN)
    assert (found.history, found.target) == (history, target)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('They liked "Toy Storry".', Invented("Toy Storry", True, False)),
        ('They liked "Toy".', Invented("Toy", False, False)),
        ('They liked "Usual Susp".', Invented("Usual Susp", True, False)),
        ('They liked "Casino".', Invented("Casino", False, True)),
        ("They liked Toy Story 2.", Invented("Toy Story 2", False, True)),
        ("They liked Gone with the Wind.", Invented("Gone with the Wind", False, False)),
        ('"Quite Made Up" is liked, "Quite Made Up".', Invented("Quite Made Up", False, False)),
    ],
)
def test_what_is_made_up_is_found_once_and_judged(text: str, expected: Invented) -> None:
    assert FIND(text, GIVEN).invented == [expected]


@pytest.mark.parametrize(
    "text",
    ["This Viewer liked Drama.", 'They are "good".', "They like Tom Hanks.", "“Toy Story” and Alien", "NO", '"'],
)
def test_what_is_no_invented_title(text: str) -> None:
    assert FIND(text, GIVEN).invented == []


def test_without_titles_everything_named_is_made_up() -> None:
    found = TitleFinder([]).find('They liked "Heat".', SampleText(""))
    assert found == (False, False, [Invented("Heat", False, False)])


def test_forms() -> None:
    assert forms("Usual Suspects, The (1995)") == ("usual suspects",)
    assert forms("The Usual Suspects") == ("usual suspects",)
    assert forms("Star Wars: Episode IV") == ("star wars episode iv", "star wars")
    assert forms("?!") == ()
