"""Recorded values of noise v1. A difference here is a new noise version: never re-record, raise `VERSION`."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from foretune import noise
from foretune.noise import Law, Noise, Purpose, add, add_low_rank, fill, lanes, mix, stream_id, use_backend
from noise_calls import INTERPRETED

GOLDEN = json.loads(Path(__file__).with_name("noise_v1.json").read_text())
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
STREAM = stream_id("model.decoder.layers.0.self_attn.q_proj.weight")
ROUNDING = Noise(mix(42, 3), STREAM, Purpose.PERTURBATION_ROUNDING)


@pytest.fixture(params=["reference", "numba", *(["triton"] if INTERPRETED else [])], autouse=True)
def backend(request):
    with use_backend(request.param):
        yield


def summary(tensor):
    """First eight patterns in hexadecimal, and the hash of all, little-endian."""
    size = tensor.element_size()
    patterns = tensor.flatten()[:8].view(BITS[size]).tolist()
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return [f"{p & (256**size - 1):0{2 * size}x}" for p in patterns] + [hashlib.sha256(raw).hexdigest()]


def cases():
    """Yield the name and the tensor of every recorded result."""
    for law in Law:
        address = Noise(mix(42, 3), STREAM, Purpose.DIRECTION, law)
        for name, dtype in DTYPES.items():
            yield f"fill {law.name} {name}", fill(torch.empty(10_007, dtype=dtype), address)
    yield "lanes", lanes(10_007, Noise(mix(42, 3), STREAM, Purpose.MASK))
    terms = [
        (1e-3, Noise(mix(42, 3), STREAM, Purpose.DIRECTION)),
        (-0.5, Noise(mix(42, 3, 1), STREAM, Purpose.DIRECTION, Law.RADEMACHER)),
    ]
    ramp = torch.arange(-5_003, 5_004, dtype=torch.float64).reshape(1, -1) / 4_096
    for name, dtype in DTYPES.items():
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        base = ramp.to(dtype)
        out = torch.empty_like(base)
        add(out, base, scale=0.9, noise=terms, dense=(0.25, ramp.to(compute)), rounding=ROUNDING)
        yield f"add {name}", out
        out = torch.empty_like(base)
        add_low_rank(
            out,
            base,
            torch.full((1, 3), 0.1, dtype=compute),
            ramp.t().repeat(1, 3).to(compute),
            rounding=ROUNDING,
        )
        yield f"add_low_rank {name}", out


def test_version():
    assert noise.VERSION == GOLDEN["version"] == 1


def test_keys_and_streams():
    for seed, epoch, query, key in GOLDEN["mix"]:
        assert mix(seed, epoch, query) == int(key, 16)
    for name, stream in GOLDEN["stream_id"].items():
        assert stream_id(name) == stream


def test_tensors():
    found = {name: summary(tensor) for name, tensor in cases()}
    assert found == GOLDEN["tensors"]
