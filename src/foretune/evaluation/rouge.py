"""ROUGE-L: how much of a reference a text has in the same order."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")


def rouge_l(text: str, references: Sequence[str]) -> float:
    """Return the best ROUGE-L F1 of a text against the references, in [0, 1].

        F1 = 2 P R / (P + R),  P = LCS / words of the text,  R = LCS / words of the reference

    LCS is the length of the longest common subsequence of words, a word a run of a-z and 0-9 after lower-casing;
    0 where nothing is common. These are the words and the value of Google's rouge-score package without stemming
    (`RougeScorer(["rougeL"]).score_multi`), which would bring nltk for a stemmer that is not used.

    References:
        Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3.1, with beta = 1.
    """
    words = _WORD.findall(text.lower())
    return max(_f1(words, _WORD.findall(reference.lower())) for reference in references)


def _f1(words: list[str], reference: list[str]) -> float:
    common = longest_common_subsequence(words, reference)
    # = 2 P R / (P + R)
    return 2 * common / (len(words) + len(reference)) if common else 0.0


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    The dynamic programme's rows differ by 0 or 1 between neighbours; a row is kept as the bits of one integer
    (0 where it rises) and updated for a whole word of `second` by one addition.

    References:
        Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    flat = everything
    for word in second:
        matches = flat & places.get(word, 0)
        flat = ((flat + matches) | (flat - matches)) & everything
    return len(first) - flat.bit_count()
