from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.evaluation.rouge import longest_common_subsequence, rouge_l

WORDS = st.lists(st.sampled_from("abcd"), max_size=30)


def table_of_lengths(first, second):
    """The textbook dynamic programme."""
    above = [0] * (len(second) + 1)
    for one in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if one == other else max(above[place + 1], row[-1]))
        above = row
    return above[-1]


@given(WORDS, WORDS)
def test_bits_of_an_integer_equal_the_textbook_table(first, second):
    assert longest_common_subsequence(first, second) == table_of_lengths(first, second)


def test_subsequences_longer_than_a_machine_word():
    first, second = list("abc" * 60), list("acb" * 60)
    assert longest_common_subsequence(first, second) == table_of_lengths(first, second)


@pytest.mark.parametrize(
    ("text", "references", "f1"),
    [
        ("police kill the gunman", ["police killed the gunman"], 0.75),  # police the gunman: 3 of 4 and 3 of 4
        ("the gunman kill police", ["police killed the gunman"], 0.5),  # the gunman
        ("the cat", ["the cat sat on the mat"], 0.5),  # P = 1, R = 1/3
        ("The CAT!", ["the, cat"], 1.0),  # case and punctuation do not count
        ("it's", ["it s"], 1.0),  # a mark separates words
        ("a b c", ["x", "c b a", "a x b"], 2 / 3),  # the best reference counts
        ("", ["x"], 0.0),
        ("x", [""], 0.0),
        ("é", ["é"], 0.0),  # not a letter of this metric
    ],
)
def test_values_by_hand(text, references, f1):
    assert rouge_l(text, references) == pytest.approx(f1)
