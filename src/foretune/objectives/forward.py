"""One forward of a causal language model that returns logits at its last positions only."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from foretune.errors import IncompatibleError
from foretune.objectives.batches import CONTEXT_SEGMENT, PADDING_SEGMENT, SequenceBatch

_KEEPS_POSITIONS = ("PREFIX_TUNING", "CARTRIDGE")
"""Prompt learning of peft that puts keys and values in front, and moves position ids behind them."""
_EMBEDS = ("PROMPT_TUNING", "P_TUNING")
"""Prompt learning of peft that puts embeddings in front, and drops position ids."""


@dataclass(frozen=True, slots=True)
class _Accepts:
    """Which optional arguments the forward of a model takes."""

    use_cache: bool
    position_ids: bool
    logits_to_keep: bool


_ACCEPTS: WeakKeyDictionary[nn.Module, _Accepts] = WeakKeyDictionary()


def last_logits(model: nn.Module, batch: SequenceBatch, num_positions: int) -> Tensor:
    """Return the logits of the last positions, shape (S, num_positions, vocabulary), in the model's dtype.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft. What its forward accepts is
            read off its signature once a model.
        batch: Its `input_ids`, and mask and positions where there are any, are the input.
        num_positions: How many positions at the right end to compute logits for; those of virtual tokens, at
            the left end, are never among them.
    Raises:
        IncompatibleError: the batch is padded, and the model has virtual tokens of a kind whose positions under
            padding are not known, or a prefix that lies beyond the padding of its sliding window; or options share
            a context, and the model cannot keep them apart (see `find_packed_length`).
    """
    inner = _uncompiled(model)
    kind = _virtual_tokens(inner)
    if kind is not None and "segments" in batch:
        raise IncompatibleError(f"Options that share a context cannot see the virtual tokens of peft's {kind}.")
    if kind in _EMBEDS:
        model, inputs = inner.get_base_model(), _with_prompt(inner, batch)
    else:
        inputs = model_inputs(model, batch)
    if not _accepts(model).logits_to_keep:
        return model(**inputs).logits[:, -num_positions:]
    return model(**inputs, logits_to_keep=num_positions).logits


def check_window(model: nn.Module, num_tokens: int) -> None:
    """Refuse text of different lengths, up to `num_tokens`, behind a prefix that a sliding window may leave behind.

    A prefix lies left of all padding, which would use up the window of shorter rows.

    Raises:
        IncompatibleError: prefix and text are longer than the model's window.
    """
    inner = _uncompiled(model)
    if _virtual_tokens(inner) not in _KEEPS_POSITIONS:
        return
    config, num_virtual = inner.get_base_model().config, inner.active_peft_config.num_virtual_tokens
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    if isinstance(window, int) and num_virtual + num_tokens > window:
        raise IncompatibleError(
            f"A prefix of {num_virtual} and texts of up to {num_tokens} tokens are longer than the model's sliding "
            f"window of {window}: padding would push the prefix out of sight of shorter texts. "
            f"Use --max-length {window - num_virtual}, or another tuning scheme."
        )


def model_inputs(model: nn.Module, batch: SequenceBatch) -> dict[str, Tensor | int]:
    """Return the keyword arguments with which a model's own forward is called on a batch.

    Raises:
        IncompatibleError: as `last_logits`.
    """
    inputs: dict[str, Tensor | int] = {"input_ids": batch["input_ids"]}
    attention_mask = batch.get("attention_mask")
    if attention_mask is not None:
        kind = _virtual_tokens(_uncompiled(model))
        if kind in _KEEPS_POSITIONS:
            check_window(model, attention_mask.shape[1])
        elif kind is not None:
            raise IncompatibleError(
                f"peft's {kind} drops position ids, so rows of different lengths cannot share a batch. "
                "Use batch size 1, or tune with LoRA, prefix or prompt tuning, or all parameters."
            )
        inputs["attention_mask"] = attention_mask
        if _accepts(model).position_ids:
            inputs["position_ids"] = batch["position_ids"]
    elif "segments" in batch:
        if not _accepts(model).position_ids:
            raise IncompatibleError("Options cannot share a context: the model takes no position ids.")
        inputs["attention_mask"] = _segment_mask(model, batch["segments"])
        inputs["position_ids"] = batch["position_ids"]
    if _accepts(model).use_cache:
        inputs["use_cache"] = False
    return inputs


def _segment_mask(model: Any, segments: Tensor) -> Tensor:
    """Return which token sees which as the model's attention takes it, shape (S, 1, T, T), from segments (S, T).

    A token sees those at or before it of its own segment and of the context. Padding sees itself only: a softmax
    over nothing would be nan.
    """
    queries, keys = segments[:, None, :, None], segments[:, None, None, :]
    columns = torch.arange(segments.shape[1], device=segments.device)
    before = columns[:, None] >= columns
    seen = before & (keys != PADDING_SEGMENT) & ((queries == keys) | (keys == CONTEXT_SEGMENT))
    seen |= columns[:, None] == columns
    attention = model.config._attn_implementation
    if attention == "sdpa":
        return seen
    if attention == "eager":  # adds its mask to the scores
        return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill_(
            ~seen, torch.finfo(model.dtype).min
        )
    raise IncompatibleError(
        f"Options cannot share a context: attention {attention!r} takes no mask of pairs of tokens; sdpa and eager do."
    )


def _with_prompt(model: Any, batch: SequenceBatch) -> dict[str, Tensor | int]:
    """Return the arguments for the base model: each row is its padding, the virtual tokens, its text.

    So padding takes no positions and no place in a sliding window. peft's own forward puts the virtual tokens left of
    the padding and drops position ids: rotary models then count the padding.
    """
    base = model.get_base_model()
    embeddings = base.get_input_embeddings()(batch["input_ids"])
    prompt = model.get_prompt(batch_size=embeddings.shape[0]).to(embeddings.dtype)
    embeddings = torch.cat((prompt, embeddings), dim=1)
    inputs: dict[str, Tensor | int] = {}
    attention_mask = batch.get("attention_mask")
    if attention_mask is not None:
        num_virtual = prompt.shape[1]
        padding = (attention_mask == 0).sum(dim=1, keepdim=True)
        columns = torch.arange(embeddings.shape[1], device=padding.device)
        places = (
            columns - padding
        )  # below 0 a row's padding, from 0 on its virtual tokens, from num_virtual on its text
        source = columns.where(places >= num_virtual, places).where(places >= 0, columns + num_virtual)
        embeddings = embeddings.gather(1, source.unsqueeze(2).expand_as(embeddings))
        inputs["attention_mask"] = (places >= 0).long()
        if _accepts(base).position_ids:
            inputs["position_ids"] = places.clamp_(min=0)
    if _accepts(base).use_cache:
        inputs["use_cache"] = False
    return {"inputs_embeds": embeddings, **inputs}


def _virtual_tokens(model: Any) -> str | None:
    """Return peft's name for the kind of virtual tokens that are in force, None if there are none."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or not model.has_active_enabled_adapter:
        return None
    return str(config.peft_type.value)


def _uncompiled(model: Any) -> Any:
    while not hasattr(model, "get_base_model") and hasattr(model, "_orig_mod"):
        model = model._orig_mod
    return model


def _accepts(model: nn.Module) -> _Accepts:
    known = _ACCEPTS.get(model)
    if known is None:
        inner = _uncompiled(model)
        if hasattr(inner, "get_base_model"):  # peft: its own forward takes **kwargs and passes them on
            inner = inner.get_base_model()
        parameters = inspect.signature(inner.forward).parameters
        known = _ACCEPTS[model] = _Accepts(
            use_cache="use_cache" in parameters,
            position_ids="position_ids" in parameters,
            logits_to_keep="logits_to_keep" in parameters,
        )
    return known
