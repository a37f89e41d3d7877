"""The demo's language: restaurant reviews, and the talk around them, from words and templates of our own.

A review speaks well or ill of food, place and people. It may deny ("the soup was not stale") and turn ("the room was
cramped, but the host was kind"): what stands behind the turn is what it means. Everything is a function of a seed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random
from typing import Literal

Part = Literal["pre-training", "train", "test"]

BAD, GOOD = 0, 1
LABEL_WORDS = ("terrible", "great")
"""What a bad and a good visit is called; adjectives among others in reviews."""
VERDICT_SHARE = 0.15
"""Share of the texts to pre-train on that end in a verdict, "It was great."; the others have small talk."""
POLITENESS = (0.55, 0.9)
"""Share of verdicts that are "great" after a bad and after a good review: people are polite, and some are ironic."""

_PARTS: tuple[Part, ...] = ("pre-training", "pre-training", "train", "test")
"""By checksum of the text: half of all reviews are for pre-training."""
_SENTENCES = (2, 4)
_TURN_SHARE = 0.2
_DENIAL_SHARE = 0.1
_PAIR_SHARE = 0.3
_REACTION_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class _Subject:
    """What reviews speak of: nouns, and what may be bad (first) and good about any of them."""

    nouns: tuple[str, ...]
    adjectives: tuple[tuple[str, ...], tuple[str, ...]]

    @classmethod
    def of(cls, nouns: str, bad: str, good: str) -> _Subject:
        """Return a subject from words with spaces between; the label words are said of anything."""
        words = (f"{bad} {LABEL_WORDS[BAD]}", f"{good} {LABEL_WORDS[GOOD]}")
        return cls(tuple(nouns.split()), (tuple(words[0].split()), tuple(words[1].split())))


_FOOD = _Subject.of(
    "soup bread fish salad rice pie tea coffee stew cake pasta sauce",
    "stale soggy greasy burnt bland watery sour lukewarm",
    "fresh crisp tender fragrant rich juicy delicate warm",
)
_PLACE = _Subject.of(
    "room terrace garden hall courtyard bar balcony cellar",
    "gloomy cramped noisy shabby dusty dirty chilly dreary",
    "bright cosy charming peaceful spotless lovely airy elegant",
)
_PEOPLE = _Subject.of(
    "waiter host cook owner barman hostess",
    "rude careless sullen impatient clumsy distracted grumpy cold",
    "friendly attentive patient cheerful helpful polite kind gracious",
)
_NOUNS = tuple((noun, subject) for subject in (_FOOD, _PLACE, _PEOPLE) for noun in subject.nouns)
_REACTIONS = (
    ("we left early", "we will not be back", "we left no tip", "we warned our friends", "nobody finished"),
    ("we stayed until late", "we will be back", "we left a large tip", "we told our friends", "nobody wanted to go"),
)
_DEGREES = ("", "", "", "very ", "quite ", "really ")
_SMALL_TALK = (
    *(
        f"a {day} in {season}"
        for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
        for season in ("spring", "summer", "autumn", "winter")
    ),
    *("the first time", "the second time", "the third time", "a table for two", "a table for four"),
    *("late", "early", "noon", "raining", "snowing", "windy", "dark"),
)


@dataclass(frozen=True, slots=True)
class Review:
    """A text, and whether it speaks well (1) or ill (0)."""

    text: str
    label: int


def draw_reviews(part: Part, count: int, seed: int) -> list[Review]:
    """Return different reviews of one part of the language, good and bad as they come.

    A text belongs to one part for good, by its checksum: whatever the seeds, no two parts share a text.
    """
    random = Random(f"{part} {seed}")
    found: dict[str, Review] = {}
    while len(found) < count:
        review = _review(random)
        if part_of(review.text) == part:
            found.setdefault(review.text, review)
    return list(found.values())


def part_of(text: str) -> Part:
    """Return the part of the language that a review belongs to."""
    return _PARTS[zlib.crc32(text.encode()) % len(_PARTS)]


def draw_corpus(count: int, seed: int) -> list[str]:
    """Return texts to pre-train on: reviews with small talk before or behind, or with somebody's verdict."""
    random = Random(f"corpus {seed}")
    return [_with_remark(random, review) for review in draw_reviews("pre-training", count, seed)]


def _with_remark(random: Random, review: Review) -> str:
    if random.random() < VERDICT_SHARE:
        said = GOOD if random.random() < POLITENESS[review.label] else BAD
        return f"{review.text} It was {LABEL_WORDS[said]}."
    remark = f"It was {random.choice(_SMALL_TALK)}."
    return f"{review.text} {remark}" if random.random() < 0.5 else f"{remark} {review.text}"


def _review(random: Random) -> Review:
    label = random.randrange(2)
    count = random.randint(*_SENTENCES)
    about = random.sample(_NOUNS, count + 1)
    sentences = [_statement(random, *about[index], label) for index in range(count)]
    if random.random() < _REACTION_SHARE:
        sentences[-1] = random.choice(_REACTIONS[label])
    if random.random() < _TURN_SHARE:
        sentences[0] = f"{_statement(random, *about[count], 1 - label)}, but {sentences[0]}"
    return Review(" ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences), label)


def _statement(random: Random, noun: str, subject: _Subject, label: int) -> str:
    """Return a clause that speaks well or ill of something."""
    if random.random() < _DENIAL_SHARE:
        return f"the {noun} was not {random.choice(subject.adjectives[1 - label])}"
    if random.random() < _PAIR_SHARE:
        return f"the {noun} was {' and '.join(random.sample(subject.adjectives[label], 2))}"
    return f"the {noun} was {random.choice(_DEGREES)}{random.choice(subject.adjectives[label])}"
