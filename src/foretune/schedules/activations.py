"""How large the outputs of modules are while a step is measured, summed over the tokens that count."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from foretune.errors import IncompatibleError
from foretune.types import Trainable

_MASK = "attention_mask"


@contextmanager
def watch_outputs(model: nn.Module, trainables: Sequence[Trainable]) -> Iterator[dict[Trainable, Tensor]]:
    """Sum ``|output|`` of each module that owns one of these weights, over all forwards within the context.

    Padding does not count: the two-dimensional attention mask of the innermost module that was given one says which
    tokens are padding; of a longer mask (of cached tokens, too) the last columns count.

    Yields:
        For each weight (rows x columns) whose module has run, the sums by row, shape (rows,), float32.
    Raises:
        IncompatibleError: a module's output does not have the rows of its weight as its last dimension.
    """
    sums: dict[Trainable, Tensor] = {}
    masks: list[Tensor | None] = []
    by_parameter = {id(trainable.parameter): trainable for trainable in trainables}
    with ExitStack() as hooks:
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if id(parameter) in by_parameter:
                    add = partial(_add, sums, masks, by_parameter[id(parameter)])
                    hooks.callback(module.register_forward_hook(add).remove)
            place = _mask_place(type(module).forward)
            if place is not None:
                enter = partial(_enter, masks, place)
                hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(partial(_leave, masks), always_call=True).remove)
        yield sums


@torch.no_grad()
def _add(
    sums: dict[Trainable, Tensor],
    masks: list[Tensor | None],
    trainable: Trainable,
    module: nn.Module,
    args: tuple[Any, ...],
    output: Tensor,
) -> None:
    rows = trainable.shape[0]
    if output.shape[-1] != rows:
        raise IncompatibleError(
            f"The output of the module of '{trainable.name}' has shape {tuple(output.shape)}, but the weight has "
            f"{rows} rows: its activations cannot be told apart by row."
        )
    size = output.detach().abs()
    mask = masks[-1] if masks else None
    if mask is not None and output.dim() == 3 and mask.shape[0] == output.shape[0] and mask.shape[1] >= output.shape[1]:
        size = size * mask[:, mask.shape[1] - output.shape[1] :, None].to(size)
    size = size.flatten(0, -2).sum(dim=0, dtype=torch.float32)
    sums[trainable] = sums[trainable] + size if trainable in sums else size


def _enter(
    masks: list[Tensor | None], place: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    mask = kwargs.get(_MASK, args[place] if len(args) > place else None)
    is_of_tokens = isinstance(mask, Tensor) and mask.dim() == 2
    masks.append(mask if is_of_tokens else masks[-1] if masks else None)


def _leave(masks: list[Tensor | None], module: nn.Module, args: tuple[Any, ...], output: object) -> None:
    masks.pop()


@lru_cache(maxsize=4096)
def _mask_place(forward: Callable[..., Any]) -> int | None:
    """Return which positional argument of a class's forward (without self) is the attention mask, None if none is."""
    names = list(inspect.signature(forward).parameters)
    return names.index(_MASK) - 1 if _MASK in names else None
