"""From an example's text to token ids, with the option's tokens located and long prompts cut on the left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from foretune.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MAX_LENGTH = 2048
"""Tokens of one sequence in the published runs."""


class CandidateExample(Protocol):
    """What is read of an example: a prompt, the options that follow it, which are right, and its name."""

    @property
    def prompt(self) -> str: ...  # noqa: D102 - the class says it
    @property
    def candidates(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def correct(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """An example as token ids.

    Args:
        token_ids: One sequence a candidate: context, then the option's tokens at the right end.
        option_lengths: Option tokens at the end of each sequence; at least 1, and shorter than the sequence.
        correct: Indices of the right candidates.
        name: Where the row comes from, for messages.
    """

    token_ids: tuple[tuple[int, ...], ...]
    option_lengths: tuple[int, ...]
    correct: tuple[int, ...]
    name: str

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
    common token prefix with the encoded prompt. A sequence longer than `max_length` loses tokens on the left,
    after the BOS token where the tokenizer adds one. Where nothing precedes the option (an empty prompt and
    no BOS), the tokenizer's end-of-text token is put in front, so that the first option token has a context.

    Args:
        examples: Anything with `prompt`, `candidates`, `correct` and `name`.
        tokenizer: A Hugging Face tokenizer.
        max_length: Most tokens of a sequence, special tokens included; see `usable_length`.
    Raises:
        UsageError: an option has no token of its own, is longer than ``max_length - 1``, or an empty prompt
            meets a tokenizer without BOS and end-of-text token; the message names the row.
    """
    if not examples:
        return []
    # all texts in one call: fast tokenizers work on them in parallel
    texts = [example.prompt + option for example in examples for option in example.candidates]
    prompts = [example.prompt for example in examples for _ in example.candidates]
    located = (_locate_by_characters if tokenizer.is_fast else _locate_by_prefix)(tokenizer, texts, prompts)
    cut = _Cut(tokenizer, max_length)
    encoded = []
    for example in examples:
        sequences, option_lengths = [], []
        for option in example.candidates:
            token_ids, option_length = cut(*next(located), f"{example.name}, option {option!r}")
            sequences.append(token_ids)
            option_lengths.append(option_length)
        encoded.append(EncodedExample(tuple(sequences), tuple(option_lengths), example.correct, example.name))
    return encoded


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether encodings start with the BOS token, by looking at one: `add_bos_token` is not reliable."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def _locate_by_characters(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], prompts: list[str]
) -> Iterator[tuple[list[int], int]]:
    """Yield ``(token ids up to the option's end, option length)`` for each text, from character offsets."""
    encodings = tokenizer(texts, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
    all_spans = encodings["offset_mapping"]
    for token_ids, spans, prompt in zip(encodings["input_ids"], all_spans, prompts, strict=True):
        stop = len(token_ids)
        while stop > 0 and spans[stop - 1][1] <= 0:  # special tokens after the text cover no characters
            stop -= 1
        start = stop
        while start > 0 and spans[start - 1][1] > len(prompt):
            start -= 1
        yield token_ids[:stop], stop - start


def _locate_by_prefix(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], prompts: list[str]
) -> Iterator[tuple[list[int], int]]:
    """Yield the same from the longest common token prefix of text and prompt: needs no offsets."""
    text_ids = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    prompt_ids = tokenizer(prompts, return_attention_mask=False, verbose=False)["input_ids"]
    for of_text, of_prompt in zip(text_ids, prompt_ids, strict=True):
        common = 0
        for one, other in zip(of_text, of_prompt, strict=False):
            if one != other:
                break
            common += 1
        yield of_text, len(of_text) - common


class _Cut:
    """Gives a sequence a context token if it has none and cuts it on the left; the settings of one call."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._max_length = max_length
        self._kept_in_front = 1 if adds_bos(tokenizer) else 0
        self._end_of_text = tokenizer.eos_token_id
        self._told = False

    def __call__(self, token_ids: list[int], option_length: int, where: str) -> tuple[tuple[int, ...], int]:
        if option_length < 1:
            raise UsageError(f"{where}: it adds no token to the prompt, so there is nothing to score.")
        if option_length > self._max_length - 1:
            raise UsageError(
                f"{where}: it has {option_length} tokens; with max_length {self._max_length} at most "
                f"{self._max_length - 1} fit. Raise max_length or shorten the option."
            )
        if option_length == len(token_ids):
            token_ids = [self._context_token(where), *token_ids]
        surplus = len(token_ids) - self._max_length
        if surplus > 0:
            front = self._kept_in_front
            token_ids = token_ids[:front] + token_ids[front + surplus :]
        return tuple(token_ids), option_length

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
