"""The hash of weights: its definition, what changes it, what does not, and what it costs."""

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from foretune.errors import UsageError
from foretune.journal import hash_weights, weights

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.bool]


def make(dtype: torch.dtype, shape: tuple[int, ...] = (3, 5)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(10).to(dtype)


def tensor_digest(name: str, dtype: str, shape: list[int], content: bytes) -> bytes:
    return hashlib.sha256(json.dumps([name, dtype, shape]).encode() + content).digest()


def test_the_definition_in_plain_python() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array([1.5, -2.0], dtype=np.float16)
    expected = hashlib.sha256(
        tensor_digest("a", "float32", [2, 3], a.tobytes()) + tensor_digest("b", "float16", [2], b.tobytes())
    ).hexdigest()
    assert hash_weights([("b", torch.from_numpy(b)), ("a", torch.from_numpy(a))]) == expected


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    tensor = torch.tensor([1.0, -2.5, 0.0078125], dtype=torch.bfloat16)
    upper = (tensor.float().numpy().view(np.uint32) >> 16).astype(np.uint16)
    expected = hashlib.sha256(tensor_digest("w", "bfloat16", [3], upper.tobytes())).hexdigest()
    assert hash_weights([("w", tensor)]) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_changed_bit_changes_it(dtype: torch.dtype) -> None:
    tensor = make(dtype)
    before = hash_weights([("w", tensor)])
    assert hash_weights([("w", tensor.clone())]) == before
    tensor.view(torch.uint8)[-1, -1] ^= 1
    assert hash_weights([("w", tensor)]) != before


def test_name_shape_dtype_and_presence_change_it() -> None:
    tensor = torch.zeros(2, 6)
    other = torch.ones(2)
    hashes = [
        hash_weights(named)
        for named in (
            [],
            [("w", tensor)],
            [("v", tensor)],
            [("w", tensor.reshape(6, 2))],
            [("w", tensor.view(torch.int32))],
            [("w", tensor), ("x", other)],
            [("x", tensor), ("w", other)],
            [("w", torch.zeros(0))],
            [("w", torch.zeros(0, 4))],
            [("w", torch.zeros(()))],
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_order_layout_and_gradients_do_not_change_it() -> None:
    a, b = make(torch.float32, (4, 6)), make(torch.bfloat16, (7,))
    expected = hash_weights([("a", a), ("b", b)])
    assert hash_weights({"b": b, "a": a}.items()) == expected
    assert hash_weights(iter([("b", b), ("a", torch.nn.Parameter(a))])) == expected
    transposed = a.t().contiguous().t()
    assert not transposed.is_contiguous()
    strided = torch.stack([b, b], dim=1)[:, 0]
    assert hash_weights([("a", transposed), ("b", strided)]) == expected


def test_pieces_do_not_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [(str(dtype), make(dtype, (13, 11))) for dtype in DTYPES]
    expected = hash_weights(tensors)
    monkeypatch.setattr(weights, "_PIECE_BYTES", 24)
    assert hash_weights(tensors) == expected


def test_contiguous_cpu_tensors_are_hashed_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = make(torch.bfloat16, (64, 64))
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    addresses = []

    class Recorder:
        def __init__(self, content: bytes = b"") -> None: ...

        def update(self, content) -> None:
            if isinstance(content, memoryview):
                addresses.append(np.frombuffer(content, np.uint8).ctypes.data)

        def digest(self) -> bytes:
            return b""

        def hexdigest(self) -> str:
            return ""

    monkeypatch.setattr(weights.hashlib, "sha256", Recorder)
    hash_weights([("w", tensor)])
    assert addresses
    assert all(begin <= address < end for address in addresses)


def test_a_module_hashes_as_its_state() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    assert hash_weights(module.named_parameters()) == hash_weights(module.state_dict().items())


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="Weights 'w' are given twice"):
        hash_weights([("w", torch.zeros(1)), ("w", torch.ones(1))])


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="Weights 'w' are on the meta device"):
        hash_weights([("w", torch.zeros(1, device="meta"))])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_does_not_change_it() -> None:
    tensors = [(str(dtype), make(dtype)) for dtype in DTYPES]
    assert hash_weights((name, tensor.cuda()) for name, tensor in tensors) == hash_weights(tensors)
