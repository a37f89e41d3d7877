"""From an example's text to token ids, with the option's tokens located and long sequences cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from foretune.errors import IncompatibleError, UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_LENGTH = 2048
"""Tokens of one sequence in the published runs."""


class CandidateExample(Protocol):
    """What is read of an example: `foretune.tasks.Example` says what each part means."""

    @property
    def prompt(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def candidates(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def correct(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def answers(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def shortened(self) -> tuple[int, int] | None: ...  # noqa: D102
    @property
    def ends_text(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as token ids.

    Args:
        token_ids: One sequence a candidate: context, then the option's tokens at the right end.
        option_lengths: Option tokens at the end of each sequence; at least 1, and shorter than the sequence.
        correct: Indices of the right candidates.
        name: Where the row comes from, for messages.
        answers: Reference texts of a row whose answer is generated; empty for others.
        prompt_ids: The prompt alone, which generation continues; empty where there are no `answers`.
        num_cut: Tokens that did not fit: of the candidate that lost most.
    """

    token_ids: tuple[tuple[int, ...], ...]
    option_lengths: tuple[int, ...]
    correct: tuple[int, ...]
    name: str
    answers: tuple[str, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    num_cut: int = 0

    @property
    def length(self) -> int:
        """Tokens of the longest candidate sequence."""
        return max(map(len, self.token_ids))


def usable_length(model: PreTrainedModel | PeftModel, requested: int = MAX_LENGTH) -> int:
    """Return `requested` tokens, or as many as the model has positions for, if that is less.

    Virtual tokens of peft take positions, too.
    """
    num_positions = getattr(model.config, "max_position_embeddings", None)
    adapter = getattr(model, "active_peft_config", None)
    num_virtual = adapter.num_virtual_tokens if adapter is not None and adapter.is_prompt_learning else 0
    return min(requested, num_positions - num_virtual) if num_positions else requested


def encode_examples(
    examples: Sequence[CandidateExample],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = MAX_LENGTH,
) -> list[EncodedExample]:
    """Tokenize every candidate of every example.

    A sequence is the tokenizer's normal encoding of prompt + option with its special tokens. The option is
    the tokens whose characters end after the prompt's end (fast tokenizers), else what follows the longest
    common token prefix with the encoded prompt; where it ends the text, EOS is its last token. Where nothing
    precedes the option (an empty prompt and no BOS), the tokenizer's end-of-text token is put in front, so that
    the first option token has a context.

    A sequence longer than `max_length` loses tokens in this order: the right end of an option that ends the text
    and alone leaves no room for a context, its EOS included; tokens of the part of the prompt that is to be
    shortened, from that part's end; tokens on the left, after the BOS where the tokenizer adds one. One warning a
    call counts the rows.

    Args:
        examples: Such as `foretune.tasks.Example`.
        tokenizer: A Hugging Face tokenizer.
        max_length: Most tokens of a sequence, special tokens included; see `usable_length`.
    Raises:
        UsageError: an option has no token of its own, is longer than ``max_length - 1``, or an empty prompt
            meets a tokenizer without BOS and end-of-text token; the message names the row.
        IncompatibleError: the tokenizer has no EOS to end a text with, or gives no offsets by which to shorten a
            part of a prompt; the message names the row.
    """
    if not examples:
        return []
    # all texts in one call: fast tokenizers work on them in parallel
    texts = [example.prompt + option for example in examples for option in example.candidates]
    prompts = [example.prompt for example in examples for _ in example.candidates]
    locate = _locate_by_characters if tokenizer.is_fast else _locate_by_prefix
    located = locate(tokenizer, texts, prompts)
    continued = [example.prompt for example in examples if example.answers]
    alone = locate(tokenizer, continued, continued) if continued else iter(())
    fit = _Fit(tokenizer, max_length)
    encoded = []
    for example in examples:
        fitted = [
            fit.candidate(next(located), example, f"{example.name}, option {option!r:.100}")
            for option in example.candidates
        ]
        encoded.append(
            EncodedExample(
                token_ids=tuple(tuple(tokens.ids) for tokens, _ in fitted),
                option_lengths=tuple(tokens.option_length for tokens, _ in fitted),
                correct=example.correct,
                name=example.name,
                answers=example.answers,
                prompt_ids=tuple(fit.prompt(next(alone), example).ids) if example.answers else (),
                num_cut=max(num_cut for _, num_cut in fitted),
            )
        )
    _tell_of_cuts(encoded, max_length)
    return encoded


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether encodings start with the BOS token, by looking at one: `add_bos_token` is not reliable."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


@dataclass(frozen=True, slots=True)
class _Tokens:
    """One text as tokens.

    Attributes:
        ids: Tokens up to the end of the option.
        spans: Characters of each token, which are none for special ones; None where the tokenizer does not say.
        option_length: How many of them, at the right end, are the option's.
    """

    ids: list[int]
    spans: list[tuple[int, int]] | None
    option_length: int


def _locate_by_characters(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], prompts: list[str]
) -> Iterator[_Tokens]:
    """Yield the tokens of each text, with the option found by character offsets."""
    encodings = tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    all_spans = encodings["offset_mapping"]
    for token_ids, spans, prompt in zip(encodings["input_ids"], all_spans, prompts, strict=True):
        stop = len(token_ids)
        while stop > 0 and spans[stop - 1][1] <= 0:  # special tokens after the text cover no characters
            stop -= 1
        start = stop
        while start > 0 and spans[start - 1][1] > len(prompt):
            start -= 1
        yield _Tokens(token_ids[:stop], spans[:stop], stop - start)


def _locate_by_prefix(tokenizer: PreTrainedTokenizerBase, texts: list[str], prompts: list[str]) -> Iterator[_Tokens]:
    """Yield the same from the longest common token prefix of text and prompt: needs no offsets."""
    text_ids = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    prompt_ids = tokenizer(prompts, return_attention_mask=False, verbose=False)["input_ids"]
    for of_text, of_prompt in zip(text_ids, prompt_ids, strict=True):
        common = 0
        for one, other in zip(of_text, of_prompt, strict=False):
            if one != other:
                break
            common += 1
        yield _Tokens(of_text, None, len(of_text) - common)


class _Fit:
    """Completes sequences with context token and EOS, and cuts them; the settings of one call."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._kept_in_front = 1 if adds_bos(tokenizer) else 0
        self._end_of_text = tokenizer.eos_token_id
        self._told = False

    def candidate(self, tokens: _Tokens, example: CandidateExample, where: str) -> tuple[_Tokens, int]:
        """Return a candidate's sequence and how many tokens it lost."""
        if example.ends_text:
            tokens = self._ended(tokens, where)
        length = len(tokens.ids)
        if tokens.option_length < 1:
            raise UsageError(f"{where}: it adds no token to the prompt, so there is nothing to score.")
        room = self._max_length - 1
        if tokens.option_length > room:
            if not example.ends_text:
                raise UsageError(
                    f"{where}: it has {tokens.option_length} tokens; with --max-length {self._max_length} at most "
                    f"{room} fit. Raise it, or shorten the option."
                )
            kept = length - (tokens.option_length - room)
            tokens = replace(tokens, ids=tokens.ids[:kept], option_length=room)
        if tokens.option_length == len(tokens.ids):
            return replace(tokens, ids=[self._context_token(where), *tokens.ids]), length - len(tokens.ids)
        tokens = self._cut(tokens, example)
        return tokens, length - len(tokens.ids)

    def prompt(self, tokens: _Tokens, example: CandidateExample) -> _Tokens:
        """Return the prompt alone, cut by the same rules."""
        if not tokens.ids:
            return replace(tokens, ids=[self._context_token(example.name)])
        return self._cut(tokens, example)

    def _ended(self, tokens: _Tokens, where: str) -> _Tokens:
        if self._end_of_text is None:
            raise IncompatibleError(
                f"{where}: it should be followed by an end-of-text token, and the tokenizer has none. "
                "Set its eos_token."
            )
        return replace(tokens, ids=[*tokens.ids, self._end_of_text], option_length=tokens.option_length + 1)

    def _cut(self, tokens: _Tokens, example: CandidateExample) -> _Tokens:
        ids = tokens.ids
        surplus = len(ids) - self._max_length
        if surplus > 0 and example.shortened is not None:
            if tokens.spans is None:
                raise IncompatibleError(
                    f"{example.name}: it has {len(ids)} tokens, {surplus} more than max_length {self._max_length}, and "
                    f"{type(self._tokenizer).__name__} does not tell which of them are the part of the prompt that is "
                    "cut first. Use a fast tokenizer, or raise max_length."
                )
            start, end = example.shortened
            inside = [index for index, (a, b) in enumerate(tokens.spans) if start <= a < b <= end]
            dropped = set(inside[-surplus:])
            ids = [token for index, token in enumerate(ids) if index not in dropped]
            surplus -= len(dropped)
        if surplus > 0:
            front = self._kept_in_front
            ids = ids[:front] + ids[front + surplus :]
        return replace(tokens, ids=ids)

    def _context_token(self, where: str) -> int:
        if self._end_of_text is None:
            raise UsageError(
                f"{where}: the prompt is empty, and the tokenizer has neither a BOS nor an end-of-text token "
                "to stand in front of the option."
            )
        if not self._told:
            self._told = True
            logger.warning("%s: the prompt is empty; the end-of-text token stands in front of it.", where)
        return self._end_of_text


def _tell_of_cuts(rows: Sequence[EncodedExample], max_length: int) -> None:
    cut = [row for row in rows if row.num_cut]
    if cut:
        logger.warning(
            "%d of %d rows are longer than %d tokens and were cut, by %d tokens at most (the first is %s).",
            len(cut),
            len(rows),
            max_length,
            max(row.num_cut for row in cut),
            cut[0].name,
        )
