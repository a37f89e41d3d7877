"""How many bytes of tensors are alive while something runs, and at most."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WORKSPACES = {torch.ops.aten.logsumexp.default: 1}
"""Operators that make temporaries inside, unseen from here, in sizes of their first argument."""


class LiveMemory(TorchDispatchMode):
    """Counts the storages of all tensors with memory that operators return inside the block, from birth to death.

    Real tensors and fake ones (`torch._subclasses.FakeTensorMode`, which know shapes alone) are counted alike: what is
    counted without memory is what a run would hold, whatever the architecture.

    Args:
        known: Tensors that were there before; their memory is not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now_bytes = 0
        self.peak_bytes = 0
        self._counts = True
        self._sums_in_place = False
        self._seen = weakref.WeakSet[Any](tensor.untyped_storage() for tensor in known)
        self._whole = weakref.WeakKeyDictionary[Any, Any]()  # for a storage the first tensor in it, which is no view

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """A block whose tensors are taken as known."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    @contextmanager
    def backward(self) -> Iterator[None]:
        """A block in which gradients are computed: a sum takes the place of its first operand, unless that is a view.

        So autograd adds the gradients of a tensor that is used more than once, but not where a mode watches, as here.
        """
        self._sums_in_place = True
        try:
            yield
        finally:
            self._sums_in_place = False

    def count(self, tensor: Tensor) -> None:
        """Count a tensor that was taken as known."""
        self._seen.discard(tensor.untyped_storage())
        self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        is_sum = self._sums_in_place and func is torch.ops.aten.add.Tensor
        replaced = args[0].untyped_storage().nbytes() if is_sum and not self._is_view(args[0]) else 0
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and not leaf._is_zerotensor() and leaf.device.type != "meta":
                self._note(leaf, replaced)
        if func in _WORKSPACES:
            inside = _WORKSPACES[func] * args[0].numel() * args[0].element_size()
            self.peak_bytes = max(self.peak_bytes, self.now_bytes + inside)
        return output

    def _note(self, tensor: Tensor, replaced: int = 0) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        self._whole[storage] = weakref.ref(tensor)
        if not self._counts:
            return
        size = storage.nbytes()
        self.now_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.now_bytes - replaced)
        weakref.finalize(storage, self._forget, size)

    def _is_view(self, tensor: Tensor) -> bool:
        first = self._whole.get(tensor.untyped_storage())
        return first is None or first() is not tensor

    def _forget(self, size: int) -> None:
        self.now_bytes -= size


def num_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory in which these tensors lie; what some of them share counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]  # held, so that no id is given twice
    return sum({id(storage): storage.nbytes() for storage in storages}.values())
