"""Greedy continuation of token sequences, many rows at a time.

A loop of our own rather than transformers' `generate`, which fills every setting it is not given from the
checkpoint's generation_config, leaves padding between peft's virtual tokens and a row's text, and goes on computing
rows that have ended.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from foretune.errors import IncompatibleError, NonFiniteLossError
from foretune.objectives import check_window

_PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")
"""Prompt learning of peft that puts keys and values in front of the text."""
_PROMPTS = ("PROMPT_TUNING", "P_TUNING")
"""Prompt learning of peft that puts embeddings in front of the text."""


@torch.no_grad()
def continue_greedily(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: Sequence[int],
    end_ids: Collection[int] = (),
    is_complete: Callable[[Sequence[int]], bool] | None = None,
    batch_size: int = 32,
) -> list[list[int]]:
    """Append the most likely token to each row until it ends, in eval mode and without sampling.

        y_t = argmax over the vocabulary of log p(y | prompt, y_1 .. y_{t-1})

    Rows of similar length share a batch, padded on the left and hidden by mask and position ids, so that a row's
    tokens are those it has alone (ties within rounding apart). A row that has ended leaves its batch. The model is
    put back into the mode it was in; no random number is drawn.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft. One without a cache of keys and
            values reads the whole row again for every token.
        prompts: Token ids of each row, at least one.
        max_new_tokens: Most tokens of each row's continuation, at least one.
        end_ids: Tokens that end a row; they are not part of its continuation.
        is_complete: Told a row's continuation after every token, says whether the row ends there.
        batch_size: Rows of a batch.
    Returns:
        The continuation of each row, in the rows' own order.
    Raises:
        IncompatibleError: the model has virtual tokens of a kind that is not known, or a prefix that lies beyond
            the padding of its sliding window.
        NonFiniteLossError: logits are nan or infinite; the message names the row.
    """
    continuations: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            longest = max(len(prompts[row]) + max_new_tokens[row] for row in rows)
            reader = _Reader(model, [prompts[row] for row in rows], longest)
            logits = reader.logits
            while True:
                going_on = []
                for place, token in enumerate(_most_likely(logits, rows)):
                    if token in end_ids:
                        continue
                    row = rows[place]
                    continuation = continuations[row]
                    continuation.append(token)
                    if len(continuation) < max_new_tokens[row] and not (is_complete and is_complete(continuation)):
                        going_on.append(place)
                if not going_on:
                    break
                rows = [rows[place] for place in going_on]
                logits = reader.read([continuations[row][-1] for row in rows], going_on)
    finally:
        model.train(was_training)
    return continuations


def _most_likely(logits: Tensor, rows: Sequence[int]) -> list[int]:
    """Return the best token of each row; argmax alone would turn nan into an innocent-looking token."""
    bad = ~logits.amax(dim=1).isfinite()
    if bad.any():
        raise NonFiniteLossError(
            f"The logits of generation prompt {rows[int(bad.nonzero()[0])]} are nan or infinite. "
            "Weights or activations overflow or are nan: try a wider dtype or an earlier checkpoint."
        )
    return logits.argmax(dim=1).tolist()


class _Reader:
    """Reads a batch of rows, then one more token of each row at a time.

    Shapes: S rows, T columns read so far, those of virtual tokens among them.

    Args:
        model: As for `continue_greedily`.
        rows: Token ids of each row.
        longest: Most tokens a row will have in the end, for the check of a prefix under a sliding window.
    """

    logits: Tensor
    """Logits after the last token of each row, (S, vocabulary), in the model's dtype."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]], longest: int) -> None:
        self._model = getattr(model, "_orig_mod", model)  # a compiled model would compile again for every length
        self._kind = _virtual_tokens(self._model)
        self._base = self._model.get_base_model() if self._kind else self._model
        # peft's own forward takes **kwargs and passes them on
        inner = self._base.get_base_model() if hasattr(self._base, "get_base_model") else self._base
        self._accepted = inspect.signature(inner.forward).parameters
        self._device = next(model.parameters()).device
        self._rows = [torch.tensor(row, device=self._device) for row in rows]
        if self._kind in _PREFIXES and len({len(row) for row in rows}) > 1:
            check_window(self._model, longest)
        self._read_rows()

    def read(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        """Read one more token of each row and return the logits after it, (S, vocabulary).

        Args:
            tokens: The token of each row that is kept.
            kept: Places of the rows to go on with, ascending; the others are forgotten.
        """
        column = torch.tensor(tokens, device=self._device)[:, None]
        if self._cache is None:
            self._rows = [torch.cat((self._rows[place], token)) for place, token in zip(kept, column, strict=True)]
            self._read_rows()
            return self.logits
        if len(kept) < len(self._mask):
            chosen = torch.tensor(kept, device=self._device)
            self._cache.reorder_cache(chosen)
            self._mask, self._position = self._mask[chosen], self._position[chosen]
        self._mask = torch.cat((self._mask, torch.ones_like(column)), dim=1)
        self._position = self._position + 1
        self._forward(
            self._base,
            input_ids=column,
            attention_mask=self._mask,
            position_ids=self._position,
            past_key_values=self._cache,
        )
        return self.logits

    def _read_rows(self) -> None:
        """Read whole rows, behind the virtual tokens of each where there are any.

        peft's own forward puts embeddings left of the padding and drops position ids, so the base model gets rows
        that are padded after the virtual tokens have been put in front. A prefix is a cache of its own, whose
        columns are left of all padding.
        """
        if self._kind in _PROMPTS:
            embed = self._base.get_input_embeddings()
            prompts = self._model.get_prompt(batch_size=len(self._rows)).to(embed.weight.dtype)
            rows = [torch.cat((prompt, embed(row))) for prompt, row in zip(prompts, self._rows, strict=True)]
            self._mask = _mask(rows)
            self._forward(
                self._base,
                inputs_embeds=_pad_left(rows),
                attention_mask=self._mask,
                position_ids=_positions(self._mask),
            )
        else:
            self._mask = _mask(self._rows)
            self._forward(
                self._model,
                input_ids=_pad_left(self._rows),
                attention_mask=self._mask,
                position_ids=_positions(self._mask),
            )
            if self._kind in _PREFIXES:
                prefix = self._mask.new_ones(len(self._rows), self._model.active_peft_config.num_virtual_tokens)
                self._mask = torch.cat((prefix, self._mask), dim=1)
        self._position = self._mask.sum(dim=1, keepdim=True) - 1

    def _forward(self, model: Any, **inputs: Any) -> None:
        if "position_ids" not in self._accepted:  # such a model reads them off the mask
            del inputs["position_ids"]
        if "use_cache" in self._accepted:
            inputs["use_cache"] = True
        if "logits_to_keep" in self._accepted:
            inputs["logits_to_keep"] = 1
        output = model(**inputs)
        self._cache = getattr(output, "past_key_values", None)
        self.logits = output.logits[:, -1]


def _virtual_tokens(model: Any) -> str | None:
    """Return peft's name for the kind of virtual tokens that are in force, None if there are none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or not model.has_active_enabled_adapter:
        return None
    kind = str(config.peft_type.value)
    if kind not in _PREFIXES + _PROMPTS:
        raise IncompatibleError(
            f"Text cannot be generated with peft's {kind}; tune with LoRA, prefix or prompt tuning, or all parameters."
        )
    return kind


def _pad_left(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows, padded on the left by zeros: token 0, which exists and is hidden by the mask."""
    return pad_sequence(list(rows), batch_first=True, padding_side="left")


def _mask(rows: Sequence[Tensor]) -> Tensor:
    return _pad_left([row.new_ones(len(row), dtype=torch.long) for row in rows])


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(dim=1) - 1).clamp_(min=0)
