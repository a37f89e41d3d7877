"""From the pieces of a masked prompt to token ids: the mask's position is known, and cuts spare the template."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import nn

from foretune.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class PromptPiece(Protocol):
    """What is read of a piece: `foretune.tasks.masked.Piece` says what each part means."""

    @property
    def text(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def may_be_cut(self) -> bool: ...  # noqa: D102
    @property
    def limit(self) -> int | None: ...  # noqa: D102


class MaskedPrompt(Protocol):
    """What is read of an example: `foretune.tasks.masked.MaskedExample` says what each part means."""

    @property
    def before(self) -> Sequence[PromptPiece]: ...  # noqa: D102
    @property
    def after(self) -> Sequence[PromptPiece]: ...  # noqa: D102
    @property
    def label_words(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def correct(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class EncodedMaskedExample:
    """An example for a masked language model as token ids.

    Args:
        token_ids: The whole sequence, special tokens included.
        mask_position: Where in it the mask is.
        label_ids: The token of each class's word, in class order.
        correct: The class, as the only index into `label_ids`.
        name: Where the row comes from, for messages.
        num_cut: Tokens that did not fit.
    """

    token_ids: tuple[int, ...]
    mask_position: int
    label_ids: tuple[int, ...]
    correct: tuple[int, ...]
    name: str
    num_cut: int = 0

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return len(self.token_ids)

    @property
    def option_lengths(self) -> tuple[int, ...]:
        """Tokens of each class's word: one."""
        return (1,) * len(self.label_ids)


def usable_masked_length(model: nn.Module, requested: int) -> int:
    """Return `requested` tokens, or as many as the model has positions for, if that is less.

    A RoBERTa leaves the positions up to its padding id unused.
    """
    num_positions = getattr(model.config, "max_position_embeddings", None)
    if not num_positions:
        return requested
    for name, module in model.named_modules():
        is_table = isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
        if is_table and module.padding_idx is not None:
            return min(requested, num_positions - module.padding_idx - 1)
    return min(requested, num_positions)


def find_label_ids(label_words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the token of each word with a space in front, as it stands inside a text.

    Raises:
        UsageError: a word is not one token of the vocabulary, or two words are the same token; the message names them.
    """
    found: dict[int, str] = {}
    for word in label_words:
        token_ids = _encode([f" {word}"], tokenizer)[0]
        if len(token_ids) != 1 or token_ids[0] == tokenizer.unk_token_id:
            tokens = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(token_ids)))
            raise UsageError(
                f"Label word {word!r} should be one token of the model's vocabulary (with a space in front), because "
                f"there is one mask; it is {len(token_ids)}: {tokens}. Choose another word."
            )
        if token_ids[0] in found:
            raise UsageError(
                f"Label words {found[token_ids[0]]!r} and {word!r} are the same token of the model's vocabulary. "
                "Choose another word for one of them."
            )
        found[token_ids[0]] = word
    return tuple(found)


def encode_masked(
    examples: Sequence[MaskedPrompt], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[EncodedMaskedExample]:
    """Encode prompts piece by piece, with the tokenizer's own special tokens around them.

    Pieces are encoded without special tokens. A literal of one character, such as a question mark, is looked up as
    that very token: tokenizers may have others of the same look that follow a space.

    Sentences lose tokens at their end: first those beyond their own limit, then, where the whole is longer than
    `max_length`, those of the last sentence, then of the one before it. One warning a call counts the rows.

    Args:
        examples: Such as `foretune.tasks.masked.MaskedExample`.
        tokenizer: Of a masked language model.
        max_length: Most tokens of a sequence, special tokens included; see `usable_masked_length`.
    Raises:
        UsageError: a label word is not one token; the prompt without its sentences is longer than `max_length`.
        IncompatibleError: the tokenizer has no mask, or nothing that starts or ends a text, or lacks a literal.
    """
    encode = _PieceEncoder(tokenizer, (piece for row in examples for piece in (*row.before, *row.after)))
    label_ids = {words: find_label_ids(words, tokenizer) for words in {row.label_words for row in examples}}
    start, mask, end = (_special_token(tokenizer, kind) for kind in ("cls", "mask", "sep"))
    encoded = []
    for row in examples:
        before, after = ([encode(piece) for piece in side] for side in (row.before, row.after))
        pieces = (*before, *after)
        surplus = 3 + sum(len(tokens.ids) for tokens in pieces) - max_length  # 3: start, mask, end
        for tokens in reversed(pieces):
            surplus -= tokens.cut(surplus)
        if surplus > 0:
            raise UsageError(
                f"{row.name}: the prompt has {max_length + surplus} tokens without its sentences; "
                f"--max-length is {max_length}. Raise it."
            )
        left = [start, *(token for tokens in before for token in tokens.ids)]
        right = [*(token for tokens in after for token in tokens.ids), end]
        encoded.append(
            EncodedMaskedExample(
                token_ids=(*left, mask, *right),
                mask_position=len(left),
                label_ids=label_ids[row.label_words],
                correct=row.correct,
                name=row.name,
                num_cut=sum(tokens.num_cut for tokens in pieces),
            )
        )
    _tell_of_cuts(encoded)
    return encoded


class _Tokens:
    """The tokens of one piece, which can lose some at their end."""

    def __init__(self, ids: list[int], piece: PromptPiece) -> None:
        self.ids = ids
        self.num_cut = 0
        self._may_be_cut = piece.may_be_cut
        if piece.limit is not None:
            self.cut(len(ids) - piece.limit)

    def cut(self, surplus: int) -> int:
        """Drop up to `surplus` tokens and return how many were dropped."""
        num_dropped = min(max(surplus, 0), len(self.ids)) if self._may_be_cut else 0
        self.ids = self.ids[: len(self.ids) - num_dropped]
        self.num_cut += num_dropped
        return num_dropped


class _PieceEncoder:
    """Encodes all texts in one call: fast tokenizers work on them in parallel."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pieces: Iterable[PromptPiece]) -> None:
        texts = list(dict.fromkeys(piece.text for piece in pieces))
        self._ids = dict(zip(texts, _encode(texts, tokenizer), strict=True))
        self._vocabulary = tokenizer.get_vocab()

    def __call__(self, piece: PromptPiece) -> _Tokens:
        is_symbol = len(piece.text) == 1 and not piece.may_be_cut
        return _Tokens([self._look_up(piece.text)] if is_symbol else self._ids[piece.text], piece)

    def _look_up(self, symbol: str) -> int:
        if symbol not in self._vocabulary:
            raise IncompatibleError(f"The prompt needs the token {symbol!r}, which the model's vocabulary lacks.")
        return self._vocabulary[symbol]


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]


def _special_token(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    token = getattr(tokenizer, f"{kind}_token_id")
    if token is None:
        raise IncompatibleError(
            f"{type(tokenizer).__name__} has no {kind}_token, so it is not the tokenizer of a masked language model. "
            "Give --model a masked one, such as roberta-large."
        )
    return token


def _tell_of_cuts(rows: Sequence[EncodedMaskedExample]) -> None:
    cut = [row for row in rows if row.num_cut]
    if cut:
        logger.warning(
            "%d of %d rows have sentences that are too long and were cut, by %d tokens at most (the first is %s).",
            len(cut), len(rows), max(row.num_cut for row in cut), cut[0].name,
        )  # fmt: skip
