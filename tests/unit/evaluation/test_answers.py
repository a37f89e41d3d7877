from __future__ import annotations

import pytest

from foretune.evaluation.answers import exact_match, normalize_answer, token_f1


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Cat!", "cat"),
        ("A man, a plan,\n a canal", "man plan canal"),
        ("theory of an atom", "theory of atom"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("a-b", "ab"),  # punctuation goes first, so no article is left between its marks
        ("“the”", "“ ”"),  # only ASCII punctuation is deleted
        ("Über  the Straße", "über straße"),
        ("the", ""),
    ],
)
def test_normalisation(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("text", "answers", "f1"),
    [
        ("The  Cat!", ["cat"], 1.0),
        ("in 1811", ["1811"], 2 / 3),
        ("", ["x"], 0.0),
        ("the", ["a"], 0.0),  # equal after normalisation, but without a token
        ("dog", ["cat"], 0.0),
        ("in 1811", ["1811", "in 1811"], 1.0),  # the best answer counts
        ("b b b c", ["b b d"], 4 / 7),  # two of the three b are common
        ("no answer here", ["no answer"], 0.0),  # shared words do not count where there is no answer
        ("No answer.", ["no answer"], 1.0),
        ("cannotanswer", ["CANNOTANSWER"], 1.0),
        ("no answer here", ["No answer"], 0.8),  # the rule reads the exact string
        ("no answer here", ["none", "no answer"], 0.8),  # and the first answer only
    ],
)
def test_token_f1(text, answers, f1):
    assert token_f1(text, answers) == pytest.approx(f1)


def test_exact_match_is_of_normalised_strings_and_any_answer():
    assert exact_match("The Cat!", ["dog", "a cat"]) == 1.0
    assert exact_match("the cat sat", ["cat"]) == 0.0
    assert exact_match("", ["x"]) == 0.0
