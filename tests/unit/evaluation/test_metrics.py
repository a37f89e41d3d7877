from __future__ import annotations

import pytest

from foretune.evaluation import accuracy


def test_accuracy_is_a_fraction_and_any_right_answer_counts():
    assert accuracy([0, 1, 2, 1], [(0,), (0,), (1, 2), {1}]) == 0.75


@pytest.mark.parametrize(("predictions", "correct"), [([], []), ([1], [(1,), (0,)])])
def test_accuracy_of_nothing_or_of_unequal_lengths_is_refused(predictions, correct):
    with pytest.raises(ValueError, match="undefined"):
        accuracy(predictions, correct)
