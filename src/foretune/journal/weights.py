"""One hash for a model's weights, by which a journal knows its base model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from foretune.errors import UsageError

# SHA-256 releases the interpreter lock; more threads than this wait for memory, not for the processor.
_NUM_THREADS = 4
# Tensors on a device are copied to the CPU by pieces of this size, so the copies never add up to a model.
_PIECE_BYTES = 32 * 2**20


def hash_weights(named_tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return one SHA-256 (hexadecimal) over every tensor's name, dtype, shape and bytes.

    Equal for equal weights on any device, in any order and memory layout; one changed bit, name, dtype or
    shape changes it. Each tensor has its own digest, and the result is the digest of these in name order.
    Contiguous CPU tensors are hashed where they lie; a device tensor crosses by pieces of 32 MiB a thread; a
    tensor that is not contiguous is copied on its device.

    Args:
        named_tensors: As `model.named_parameters()` or `model.state_dict().items()` give them.
    Raises:
        UsageError: a name comes twice, or a tensor is on the meta device and has no data.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in named_tensors:
        if name in tensors:
            raise UsageError(f"Weights {name!r} are given twice; every name must be unique.")
        if tensor.is_meta:
            raise UsageError(f"Weights {name!r} are on the meta device, without data; load the model first.")
        tensors[name] = tensor
    names = sorted(tensors)
    total = hashlib.sha256()
    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="hash-weights") as pool:
        for digest in pool.map(_hash_tensor, names, [tensors[name] for name in names]):
            total.update(digest)
    return total.hexdigest()


def _hash_tensor(name: str, tensor: Tensor) -> bytes:
    dtype = str(tensor.dtype).removeprefix("torch.")
    # JSON, because it ends by itself: no name can be read as another name with a shape.
    digest = hashlib.sha256(json.dumps([name, dtype, list(tensor.shape)]).encode("ascii"))
    flat = tensor.detach().contiguous().reshape(-1)
    for piece in flat.split(max(1, _PIECE_BYTES // flat.element_size())):
        # NumPy has no bfloat16, and a copy into float32 would not be needed for the bytes anyway.
        digest.update(piece.cpu().view(torch.uint8).numpy().data)
    return digest.digest()
