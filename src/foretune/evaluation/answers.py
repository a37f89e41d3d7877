"""A generated answer against reference answers, after the normalisation of SQuAD."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

NO_ANSWER = ("CANNOTANSWER", "no answer")
"""First references that say a question has no answer; then only the same words count, not shared ones."""

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower-case, delete ASCII punctuation, replace articles by a space, collapse white space; in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1 if the normalised text equals any normalised answer, else 0."""
    return float(normalize_answer(text) in map(normalize_answer, answers))


def token_f1(text: str, answers: Sequence[str]) -> float:
    """Return the best token F1 of a text against the answers, in [0, 1].

        F1 = 2 P R / (P + R),  P = common / tokens of the text,  R = common / tokens of the answer

    Tokens are the words of the normalised strings, `common` is the size of their multiset intersection; F1 is 0
    where nothing is common, so an empty text scores 0. Where the first answer is one of `NO_ANSWER`, the value
    is `exact_match`.

    References:
        Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1. The answers are alternatives: on DROP this is not that
        benchmark's official F1 over bags of spans.
    """
    if answers[0] in NO_ANSWER:
        return exact_match(text, answers)
    return max(_f1(normalize_answer(text).split(), normalize_answer(answer).split()) for answer in answers)


def _f1(tokens: list[str], reference: list[str]) -> float:
    common = (Counter(tokens) & Counter(reference)).total()
    # = 2 P R / (P + R)
    return 2 * common / (len(tokens) + len(reference)) if common else 0.0
