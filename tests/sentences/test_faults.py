import pytest

from expctr.data.batches import SampleText
from expctr.sentences.faults import count_faults

GIVEN = SampleText("Alien 3", ("Heat", "Usual Suspects, The"), ("Casper",))


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ('They liked "Heat" and "The Usual Suspects", so they will like "Alien 3".', 0),
        ('They disliked "Heat", but liked "Casper".', 2),
        ('They liked "Heat Suspects", so they will like "Alien 3".', 1),
        ('They liked "Casper" and "Toy Story".', 2),
        ("This viewer has mixed feelings.", 0),
        ("", 0),
    ],
)
def test_false_statements_about_the_prompt_are_counted(text: str, faults: int) -> None:
    assert count_faults(text, GIVEN) == faults
