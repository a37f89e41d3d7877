"""The demo's language: what a label means, which parts share nothing, and what people say afterwards."""

from __future__ import annotations

import hashlib
import re

import pytest

from foretune.runs.demo.reviews import (
    LABEL_WORDS,
    POLITENESS,
    VERDICT_SHARE,
    draw_corpus,
    draw_reviews,
    part_of,
)

GOOD_REACTIONS = {"stayed until late", "will be back", "left a large tip", "told our friends", "wanted to go"}


def _meaning(text: str) -> int:
    """Read a review as a person does: by its last clause alone. Words are looked up here, not in the generator."""
    clause = re.split(r"[.,]", text.rstrip("."))[-1].strip().removeprefix("but ")
    if " was " not in clause:
        return int(any(reaction in clause for reaction in GOOD_REACTIONS))
    said = clause.partition(" was ")[2].split()
    good = (
        "fresh crisp tender fragrant rich juicy delicate warm bright cosy charming peaceful spotless lovely airy "
        "elegant friendly attentive patient cheerful helpful polite kind gracious great"
    )
    return int((said[-1] in good.split()) != (said[0] == "not"))


def test_a_label_is_what_the_last_clause_says():
    reviews = draw_reviews("train", 500, 0)
    assert [review.label for review in reviews] == [_meaning(review.text) for review in reviews]
    assert 200 < sum(review.label for review in reviews) < 300
    assert sum(", but " in review.text for review in reviews) > 50
    assert sum(" not " in review.text for review in reviews) > 50


def test_a_seed_is_a_draw_for_good():
    """A change of these texts changes every figure of the demo, and asks for a new pre-training."""
    texts = "\n".join(f"{review.label} {review.text}" for review in draw_reviews("test", 1000, 0))
    assert (
        hashlib.sha256(texts.encode()).hexdigest() == "c8b3f2b49407eb8b001f0a95b6cf480c1456d0a2aee4a22c8e6f2c596bc9e440"
    )
    assert (
        hashlib.sha256("\n".join(draw_corpus(1000, 0)).encode()).hexdigest()
        == "40e3ce78ff9f4ab7fdc317e2647dcc47746613b4eed61d691ccaf6f64ed3a1b4"
    )
    assert draw_reviews("test", 10, 0) != draw_reviews("test", 10, 1)


def test_no_text_is_in_two_parts_or_there_twice():
    found = {part: [r.text for s in (0, 1) for r in draw_reviews(part, 500, s)] for part in ("train", "test")}
    for part, texts in found.items():
        assert {part_of(text) for text in texts} == {part}
        assert len(set(texts[:500])) == 500
    for text in draw_corpus(500, 0):
        review = re.sub(r"(^| )It was [^.]*\.( |$)", "", text)
        assert part_of(review) == "pre-training"


def test_verdicts_are_as_polite_as_they_are_said_to_be():
    number = 4000
    verdicts: dict[int, list[str]] = {0: [], 1: []}
    for text in draw_corpus(number, 0):
        review, found, word = text.rstrip(".").rpartition(" It was ")
        if found and word in LABEL_WORDS:
            verdicts[_meaning(review)].append(word)
    assert len(verdicts[0]) + len(verdicts[1]) == pytest.approx(number * VERDICT_SHARE, rel=0.1)
    for label, words in verdicts.items():
        assert words.count("great") / len(words) == pytest.approx(POLITENESS[label], abs=0.05)
