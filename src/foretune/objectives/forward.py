"""One forward of a causal language model that returns logits at its last positions only."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from foretune.errors import IncompatibleError
from foretune.objectives.batches import SequenceBatch


@dataclass(frozen=True, slots=True)
class _Accepts:
    """Which optional arguments the forward of a model takes."""

    use_cache: bool
    position_ids: bool
    logits_to_keep: bool
    drops_position_ids: bool


_ACCEPTS: WeakKeyDictionary[nn.Module, _Accepts] = WeakKeyDictionary()


def last_logits(model: nn.Module, batch: SequenceBatch, num_positions: int) -> Tensor:
    """Return the logits of the last positions, shape (S, num_positions, vocabulary), in the model's dtype.

    Args:
        model: A causal language model of transformers, plain or wrapped by peft. What its forward accepts is
            read off its signature once a model.
        batch: Its `input_ids`, and mask and positions where there are any, are the input.
        num_positions: How many positions at the right end to compute logits for.
    Raises:
        IncompatibleError: the batch is padded and the model is a peft prompt-tuning wrapper, which drops
            position ids.
    """
    inputs = model_inputs(model, batch)
    if not _ACCEPTS[model].logits_to_keep:
        return model(**inputs).logits[:, -num_positions:]
    return model(**inputs, logits_to_keep=num_positions).logits


def model_inputs(model: nn.Module, batch: SequenceBatch) -> dict[str, Tensor | int]:
    """Return the keyword arguments with which a model's forward is called on a batch.

    Raises:
        IncompatibleError: as `last_logits`.
    """
    accepts = _ACCEPTS.get(model)
    if accepts is None:
        accepts = _ACCEPTS[model] = _inspect(model)
    inputs: dict[str, Tensor | int] = {"input_ids": batch["input_ids"]}
    attention_mask = batch.get("attention_mask")
    if attention_mask is not None:
        if accepts.drops_position_ids:
            raise IncompatibleError(
                "peft's prompt tuning drops position ids, so rows of different lengths cannot share a batch. "
                "Use batch size 1, or tune with LoRA, prefix tuning or all parameters."
            )
        inputs["attention_mask"] = attention_mask
        if accepts.position_ids:
            inputs["position_ids"] = batch["position_ids"]
    if accepts.use_cache:
        inputs["use_cache"] = False
    return inputs


def _inspect(model: nn.Module) -> _Accepts:
    inner: Any = model
    while not hasattr(inner, "get_base_model") and hasattr(inner, "_orig_mod"):  # torch.compile
        inner = inner._orig_mod
    active = getattr(inner, "active_peft_config", None)
    drops = active is not None and active.is_prompt_learning and active.peft_type != "PREFIX_TUNING"
    if hasattr(inner, "get_base_model"):  # peft: its own forward takes **kwargs and passes them on
        inner = inner.get_base_model()
    parameters = inspect.signature(inner.forward).parameters
    return _Accepts(
        use_cache="use_cache" in parameters,
        position_ids="position_ids" in parameters,
        logits_to_keep="logits_to_keep" in parameters,
        drops_position_ids=drops,
    )
