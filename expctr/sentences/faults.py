"""How many false statements about its prompt a sentence makes. Pure functions of strings."""

from expctr.data.batches import SampleText
from expctr.sentences.claims import claims_of
from expctr.sentences.titles import TitleFinder

_FINDER = TitleFinder([])  # whether an invented title is another one of the catalogue makes no difference


def count_faults(text: str, given: SampleText) -> int:
    """The titles that a sentence invents or garbles, and those of which it says the opposite of what is so.

    Args:
        text: the sentence.
        given: the titles as its prompt shows them.
    """
    return len(_FINDER.find(text, given).invented) + len(claims_of(text, given.liked, given.disliked).wrong)
