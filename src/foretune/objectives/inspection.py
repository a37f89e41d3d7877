"""What is known of a model before its shortcuts are tried on it: which model it is, and when two ways agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def language_model(model: nn.Module) -> Any | None:
    """Return the model of transformers inside adapters of peft, None for a compiled one and for any other."""
    inner: Any = model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return None if hasattr(inner, "_orig_mod") or not hasattr(inner, "get_output_embeddings") else inner


def has_virtual_tokens(model: nn.Module) -> bool:
    """Whether a model is wrapped by peft for prompt learning."""
    outer: Any = model
    return hasattr(outer, "get_base_model") and bool(outer.active_peft_config.is_prompt_learning)


def plain_language_model(model: nn.Module) -> Any | None:
    """Return the `language_model`, None where shortcuts around its forward are wrong.

    They are wrong under prompt learning, whose virtual tokens they would leave out.
    """
    return None if has_virtual_tokens(model) else language_model(model)


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """A block in which a model runs without dropout and derivatives."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether two ways of computing float32 values, shapes equal, differ by rounding in `dtype` alone."""
    if ours.shape != theirs.shape:
        return False
    tolerance = 2e-2 if dtype.itemsize < 4 else 1e-4
    return bool(((ours - theirs).abs().max() <= tolerance * theirs.abs().max()).item())
