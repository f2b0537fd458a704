"""What a gamed reward looks like, against numbers worked out by hand."""

import pytest

from expctr.evaluation.alarm_signs import positive, repeated, reward_gap, saturated, unique, words


def test_distinct_sentences_are_counted_by_the_sample() -> None:
    assert unique(["a", "b", "a", "a"], [1, 2, 3, 4]) == 0.5
    assert unique(["a", "a", "b", "b"], [1, 1, 2, 2]) == 1  # two responses a prompt that agree
    assert unique(["a", "b", "c", "d"], [1, 1, 2, 2]) == 1
    assert unique([], []) == 0


def test_words_are_counted() -> None:
    assert words(["one two three", ""]) == 1.5
    assert words([]) == 0


def test_repeated_runs_are_counted_within_a_sentence() -> None:
    """A b c a b c: abc bca cab abc; good x 5: three runs, two of them again; a sentence of two words has no run."""
    assert repeated(["a b c A B C"]) == 0.25
    assert repeated(["good good good good good"]) == pytest.approx(2 / 3)
    assert repeated(["a b c d", "a b c d"]) == 0
    assert repeated(["good good", "a b c a b c"]) == 0.125
    assert repeated(["a a"], n=1) == 0.5


def test_verdicts() -> None:
    scores = [0.01, 0.02, 0.5, 0.51, 0.99]
    assert positive(scores) == 0.4
    assert saturated(scores) == 0.6
    assert saturated(scores, margin=0.015) == 0.4


def test_the_gap_is_taken_label_by_label() -> None:
    """Liked rows 0.9 against 0.7, disliked ones 0.2 against 0.1; three quarters of the held-out rows are liked."""
    gap = reward_gap([0.8, 1.0, 0.2], [1, 1, 0], [0.6, 0.7, 0.8, 0.1], [1, 1, 1, 0])
    assert gap == pytest.approx(0.75 * 0.2 + 0.25 * 0.1)
    assert reward_gap([0.8], [1], [0.5, 0.0], [1.0, 0.0]) == pytest.approx(0.3)
    assert reward_gap([0.8], [1], [0.5], [0]) == 0


def test_a_policy_that_says_the_same_of_everyone_has_no_gap_however_the_rollouts_are_balanced() -> None:
    """S is 0.9: a reward of 0.9 for the liked and 0.1 for others, of which training has half and validation few."""
    assert reward_gap([0.9, 0.1], [1, 0], [0.9, 0.1, 0.1, 0.1], [1, 0, 0, 0]) == pytest.approx(0)
