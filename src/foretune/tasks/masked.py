"""Prompts for masked language models: a text with one mask, and the word of each class that may fill it.

A prompt is a sequence of pieces on both sides of the mask. Each piece is encoded on its own, because a tokenizer
that is given the whole string would let the mask swallow the space before it and merge across the joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foretune.tasks.base import Row


@dataclass(frozen=True, slots=True)
class Sentence:
    """A field of the row as a piece of a prompt.

    White space at both ends is stripped, except from a text that loses its last character: there the field counts as
    it is, so that the published texts result.

    Args:
        field: The field.
        follows: It follows other text, so a space stands in front of it.
        drops_last: It loses its last character, whatever that is.
        lowers_first: Its first letter is lower-cased.
        limit: Most tokens; None = as many as fit.
    """

    field: str
    follows: bool = False
    drops_last: bool = False
    lowers_first: bool = False
    limit: int | None = None

    def text(self, row: Row) -> str:
        """Return the characters of this piece."""
        text = row[self.field]
        text = text[:-1] if self.drops_last else text.strip()
        if self.lowers_first:
            text = text[:1].lower() + text[1:]
        return f" {text}" if self.follows and text else text


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of one row's prompt.

    Args:
        text: Its characters.
        may_be_cut: It is a sentence, which loses tokens at its end where the prompt is too long.
        limit: Most tokens; None = as many as fit.
    """

    text: str
    may_be_cut: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class MaskedExample:
    """One row, ready to be tokenized for a masked language model.

    Args:
        before, after: The pieces on both sides of the mask.
        label_words: The word of each class, in class order.
        correct: The row's class, as the only index into `label_words`.
        name: Where the row comes from, for messages.
    """

    before: tuple[Piece, ...]
    after: tuple[Piece, ...]
    label_words: tuple[str, ...]
    correct: tuple[int, ...]
    name: str = field(default="example", compare=False)

    def text(self, mask: str = "<mask>") -> str:
        """Return the prompt as one string, without the special tokens around it."""
        return "".join(piece.text for piece in self.before) + mask + "".join(piece.text for piece in self.after)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedTemplate:
    """The prompt of a task for masked language models, its classes and their words.

    Args:
        before, after: Literal texts and sentences on both sides of the mask.
        label_words: The word of each class, in class order. A space is put in front of it, and with it the word must
            be a single token.
        classes: The class of each label of the dataset, in label order; None = label and class are the same.
        label_field: The field with the label.
        max_length: Most tokens, special ones included.
        test_split: The split of the published test rows where it is not the task's `eval_split`.
    References:
        Gao et al. 2021, arXiv:2012.15723 (LM-BFF), whose prompts Malladi et al. 2023, arXiv:2305.17333, use with
        RoBERTa. Differs from the published code, which cuts long prompts at their end even if that takes the mask.
    """

    before: tuple[str | Sentence, ...]
    after: tuple[str | Sentence, ...]
    label_words: tuple[str, ...]
    classes: tuple[int, ...] | None = None
    label_field: str = "label"
    max_length: int = 128
    test_split: str | None = None

    def class_of(self, row: Row) -> int:
        """Return the class of a row with a known label, an index into `label_words`."""
        label = row[self.label_field]
        return label if self.classes is None else self.classes[label]

    def example(self, row: Row, name: str = "example") -> MaskedExample:
        """Write a row as an example called `name`."""
        return MaskedExample(
            before=_write(self.before, row),
            after=_write(self.after, row),
            label_words=self.label_words,
            correct=(self.class_of(row),),
            name=name,
        )


def _write(pieces: Sequence[str | Sentence], row: Row) -> tuple[Piece, ...]:
    return tuple(
        Piece(piece) if isinstance(piece, str) else Piece(piece.text(row), may_be_cut=True, limit=piece.limit)
        for piece in pieces
    )


def judged_sentence(
    field: str, says: str, label_words: tuple[str, ...], *, limit: int | None = None, test_split: str | None = None
) -> MaskedTemplate:
    """``{sentence}{says}<mask>.``, as in ``a quiet film It was<mask>.``

    Args:
        field: The sentence's field.
        says: What leads to the word, with a space in front: ``" It was"`` for reviews.
        label_words: The word of each label.
        limit: Most tokens of the sentence.
        test_split: As `MaskedTemplate`.
    """
    return MaskedTemplate(
        before=(Sentence(field, limit=limit), says), after=(".",), label_words=label_words, test_split=test_split
    )


def inferred_sentence(
    first: str,
    second: str,
    label_words: tuple[str, ...],
    *,
    classes: tuple[int, ...] | None = None,
    limit: int | None = None,
    max_length: int = 256,
) -> MaskedTemplate:
    """``{first}?<mask>, {second}``: the last character of `first` gives way to the question mark.

    Args:
        first, second: The fields of premise and hypothesis, or of question and sentence.
        label_words, classes, max_length: As `MaskedTemplate`.
        limit: Most tokens of the first sentence.
    """
    return MaskedTemplate(
        before=(Sentence(first, drops_last=True, limit=limit), "?"),
        after=(",", Sentence(second, follows=True, lowers_first=True)),
        label_words=label_words,
        classes=classes,
        max_length=max_length,
    )


def paired_sentences(first: str, second: str) -> MaskedTemplate:
    """``{first}<mask>, {second}``: Yes (1) if both say the same, else No (0)."""
    return MaskedTemplate(
        before=(Sentence(first),),
        after=(",", Sentence(second, follows=True, lowers_first=True)),
        label_words=("No", "Yes"),
    )
