"""What evaluations that share forwards have in common: how many they are, and the calls that were made for all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec

from foretune.engine.base import Perturbation
from foretune.engine.rows import repeated

MAX_POSITIONS = 4096
"""Rows times tokens of a batch with more than two evaluations: beyond, the weights are hardly what takes the time."""


class SharedCall:
    """A call that was made for several evaluations: its arguments, and what each of them gets."""

    def __init__(self, leaves: Sequence[object], spec: TreeSpec, number: int, num_rows: int) -> None:
        self.spec = spec
        self.num_rows = num_rows
        self.copies = [repeated(leaf, number, num_rows) for leaf in leaves]
        self.shares: list[Any] = []
        self._number = number
        self._leaves = [(leaf, _version(leaf)) for leaf in leaves]

    def serves(self, leaves: Sequence[object], spec: TreeSpec) -> bool:
        """Whether a call has the arguments of this one: the same objects, unchanged, or equal ones."""
        return spec == self.spec and all(map(self._is_same, leaves, self._leaves, self.copies))

    def _is_same(self, new: object, old: tuple[object, int | None], copy: object) -> bool:
        if isinstance(new, Tensor) and isinstance(copy, Tensor):
            if new is old[0] and old[1] is not None and _version(new) == old[1]:
                return True
            value = copy[: self.num_rows] if copy.dim() else copy
            return new.shape == value.shape and new.dtype == value.dtype and torch.equal(new, value.to(new.device))
        return type(new) is type(copy) and new == copy


class Together:
    """Evaluations that share forwards.

    Attributes:
        waiting: Perturbations, those that share first.
        size: How many of them share; 0 until the first forward is shared.
        index: The evaluation under way.
        has_run: Whether a module has run in it whose result may depend on the perturbation.
    """

    def __init__(self, waiting: Sequence[Perturbation]) -> None:
        self.waiting = waiting
        self.size = 0
        self._calls: defaultdict[nn.Module, list[SharedCall | None]] = defaultdict(list)
        self.begin(0)

    def begin(self, index: int) -> None:
        """Begin an evaluation."""
        self.index = index
        self.has_run = False
        self._count: Counter[nn.Module] = Counter()

    def choose_size(self, num_positions: int) -> int:
        """Return how many evaluations share, given the rows times tokens of one; those of both signs do not part."""
        if not self.size:
            size = min(len(self.waiting), max(2, MAX_POSITIONS // num_positions))
            splits = size < len(self.waiting) and self.waiting[size].mirrors(self.waiting[size - 1])
            self.size = size - splits
        return self.size

    def keep(self, module: nn.Module, call: SharedCall | None) -> None:
        """Note what became of the next call of a root in the first evaluation."""
        self._calls[module].append(call)

    def kept(self, module: nn.Module) -> SharedCall | None:
        """Return what was noted of the call of a root that has the same place in this evaluation."""
        place, self._count[module] = self._count[module], self._count[module] + 1
        calls = self._calls[module]
        return calls[place] if place < len(calls) else None


def _version(leaf: object) -> int | None:
    """Return the number of changes made to a tensor, None if nobody counts them."""
    return leaf._version if isinstance(leaf, Tensor) and not leaf.is_inference() else None
