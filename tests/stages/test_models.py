"""What is reported of several explanations per row."""

import torch

from expctr.stages.models import average_explanations


def test_scores_are_means_and_the_explanation_shown_is_nearest_to_them() -> None:
    scores = {"s_u": torch.tensor([0.1, 0.9, 0.8, 0.2, 0.2, 0.2]), "s_r": torch.tensor([0.5, 0.7, 0.6, 0.3, 0.4, 0.5])}
    found = average_explanations(list("abcdef"), scores, 3, [0] * 6)
    assert found["text"] == ["c", "e"]
    assert found["texts"] == [["a", "b", "c"], ["d", "e", "f"]]
    torch.testing.assert_close(found["s_u"], torch.tensor([0.6, 0.2]))
    torch.testing.assert_close(found["s_r"], torch.tensor([0.6, 0.4]))
    torch.testing.assert_close(found["s_u_std"], torch.tensor([0.19**0.5, 0.0]))  # (0.25 + 0.09 + 0.04) / 2
    torch.testing.assert_close(found["s_r_std"], torch.tensor([0.1, 0.1]))


def test_of_explanations_with_fewer_faults_the_nearest_to_the_means_is_shown() -> None:
    """All count for the means."""
    scores = {"s_u": torch.tensor([0.1, 0.6, 0.5, 0.8, 0.2, 0.8, 0.2, 0.5])}
    found = average_explanations(list("abcdefgh"), scores, 4, [1, 0, 1, 0, 2, 3, 2, 3])
    assert found["text"] == ["b", "e"]
    torch.testing.assert_close(found["s_u"], torch.tensor([0.5, 0.425]))


def test_one_explanation_is_left_as_it_is() -> None:
    scores = {"s_u": torch.tensor([0.1, 0.9])}
    assert average_explanations(["a", "b"], scores, 1, []) == {"text": ["a", "b"], "s_u": scores["s_u"]}


def test_a_rank_without_rows_has_the_same_columns() -> None:
    found = average_explanations([], {"s_u": torch.empty(0)}, 8, [])
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ("text", "s_u", "s_u_std", "texts"), 0
    )
