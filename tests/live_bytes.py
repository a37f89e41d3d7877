"""Memory that operators allocate, counted exactly and without asking the system."""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _storages(values: object) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not tensor._is_zerotensor()]  # which hold no memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, as long as they live.

    Attributes:
        live, peak: Bytes alive now, and at most.
        sizes: Bytes of every storage that was made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage.data_ptr() not in given | self._known:
                address, size = storage.data_ptr(), storage.nbytes()
                self._known.add(address)
                self.sizes.append(size)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, address, size)
        return result

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size
