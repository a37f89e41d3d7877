"""Rows of several evaluations in one batch: data repeated, arguments cut apart, outputs joined.

A batch of n evaluations with B rows each has n B rows, those of the first evaluation first. The first dimension of a
tensor may also be a multiple of that (rows and tokens in one), or 1 for what all rows share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from foretune.errors import IncompatibleError

_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
"""What means the same to every row, and holds no tensors."""


class NotOneBatch(Exception):
    """These evaluations cannot share a batch; the message says what is in the way."""


class Withheld:
    """Stands for a result that cannot be cut into rows, a cache of keys and values say; to use it is an error."""

    def __init__(self, result: object) -> None:
        self._kind = type(result).__name__

    def __getattr__(self, name: str) -> Any:
        raise IncompatibleError(
            f"The closure asks for '{name}' of a {self._kind} that the model returned: engine 'paired' makes one "
            "forward for several evaluations and cannot part such a result. Use another engine."
        )


def count_rows(leaves: Sequence[object], *, floats: bool) -> int | None:
    """Return the number of rows B that the arguments of a call have, None if they are no data that may be repeated.

    Args:
        leaves: All arguments, tensors among them.
        floats: Whether floating-point tensors are data: they may be results that depend on the weights.
    """
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    sizes = {tensor.shape[0] for tensor in tensors if tensor.dim()}
    if not sizes or len(sizes - {1}) > 1 or not all(isinstance(leaf, (Tensor, *_PLAIN)) for leaf in leaves):
        return None
    if not floats and any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        return None
    return max(sizes)


def count_positions(leaves: Sequence[object]) -> int:
    """Return the rows of data times the length of its sequences."""
    shapes = (leaf.shape[:2] for leaf in leaves if isinstance(leaf, Tensor))
    return max((shape.numel() for shape in shapes), default=1)


def repeated(leaf: object, number: int, num_rows: int) -> object:
    """Return a copy of an argument with its rows repeated `number` times."""
    if not isinstance(leaf, Tensor):
        return leaf
    times = number if leaf.dim() and leaf.shape[0] == num_rows else 1
    return leaf.repeat(times, *(1 for _ in leaf.shape[1:])) if leaf.dim() else leaf.clone()


def cut(tree: Any, number: int, num_rows: int) -> list[Any]:
    """Return the share of each evaluation in a result, as views; objects that hold who knows what are `Withheld`.

    Raises:
        NotOneBatch: there is a tensor that is not made of rows.
    """

    def share(leaf: object, index: int) -> object:
        if isinstance(leaf, _PLAIN):
            return leaf
        if not isinstance(leaf, Tensor):
            return Withheld(leaf)
        if _has_rows(leaf, number * num_rows):
            return leaf.chunk(number)[index]
        raise NotOneBatch(f"it returns {describe(leaf)}, which is not one of rows")

    return [_map(lambda leaf, index=index: share(leaf, index), tree) for index in range(number)]


def cut_arguments(leaves: Sequence[object], number: int, num_rows: int) -> tuple[list[list[object]], bool]:
    """Return the arguments of a call for each evaluation, and whether any were cut: the rest all of them share."""
    total, is_cut = number * num_rows, False
    columns: list[Sequence[object]] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and _has_rows(leaf, total):
            columns.append(leaf.chunk(number))
            is_cut = True
        else:
            columns.append([leaf] * number)
    return [[column[index] for column in columns] for index in range(number)], is_cut


def join(outputs: Sequence[Any], num_rows: int, *, of_rows: bool) -> Any:
    """Put the results of all evaluations into one.

    Args:
        outputs: Those of one call, an evaluation each.
        num_rows: Rows of an evaluation (B).
        of_rows: Whether the call was made on rows. If not, its results have one that all rows share.
    Raises:
        NotOneBatch: there is something that is not made of rows.
    """
    flat = [tree_flatten(output) for output in outputs]
    joined: list[object] = []
    for leaves in zip(*(leaves for leaves, _ in flat), strict=True):
        first = leaves[0]
        if isinstance(first, _PLAIN) and all(leaf == first for leaf in leaves):
            joined.append(first)
        elif isinstance(first, Tensor) and first.dim() and (of_rows or first.shape[0] == 1):
            parts = leaves if of_rows else [leaf.expand(num_rows, *leaf.shape[1:]) for leaf in leaves]
            joined.append(torch.cat(parts))
        else:
            raise NotOneBatch(f"it returns {describe(first)}, which does not have a row for each of the data")
    return tree_unflatten(joined, flat[0][1])


def describe(leaf: object) -> str:
    """Name a kind of object for messages."""
    return f"a tensor of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"


def _has_rows(leaf: Tensor, total: int) -> bool:
    return leaf.dim() > 0 and leaf.shape[0] > 0 and leaf.shape[0] % total == 0


def _map(function: Callable[[object], object], tree: Any) -> Any:
    """Apply `function` to all leaves; dataclasses that torch does not know are looked into as well."""

    def visit(leaf: Any) -> object:
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return function(leaf)
        values = {field.name: _map(function, getattr(leaf, field.name)) for field in dataclasses.fields(leaf)}
        return dataclasses.replace(leaf, **values)

    return tree_map(visit, tree)
