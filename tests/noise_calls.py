"""What the tests of the noise backends share: addresses, numbers of every size, calls with random options."""

import os
from importlib.util import find_spec

import torch

from foretune.noise import LaneMask, Law, MagnitudeMask, Noise, Purpose, Window, add, mix, stream_id, use_backend

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LARGE = 300_007  # elements: enough for several threads, and odd
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

# Triton defines its kernels for the interpreter or for GPUs, once a process.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None


def address(number, law=Law.GAUSSIAN):
    return Noise(mix(7, number), stream_id("layer.weight"), Purpose(number % 9), law)


ROUNDING = address(5)


def written(backend, call):
    """Return what `call` writes under a backend, as integers with every nan made the same."""
    with use_backend(backend):
        out = call()
    bits = out.contiguous().view(BITS[out.element_size()])
    return torch.where(out.isnan(), -1, bits)


def assert_as_reference(backend, call):
    """Assert that `call` writes the bits of the reference; nan matches nan."""
    assert torch.equal(written("reference", call), written(backend, call))


def any_values(shape, dtype, seed):
    """Numbers of every size: normal, subnormal, huge, zeros of both signs, infinities."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x * torch.exp(8 * torch.randn(shape, generator=generator, dtype=torch.float64))
    x.view(-1)[::11] = 0.0
    x.view(-1)[5::97] = -0.0
    x.view(-1)[7::101] = float("inf")
    return x.to(dtype)


def random_add(dtype, seed, max_rows, max_columns):
    """Return a call of `add` on a tensor of any shape up to the given one, with random options."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    rows, columns = integer(1, max_rows), integer(1, max_columns)
    base = any_values((rows, columns), dtype, seed)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    scales = [1.0, 0.75, -1e-3]
    terms = [(10.0 ** integer(-6, 2), address(integer(0, 99), Law(integer(0, 2)))) for _ in range(integer(0, 4))]
    options = {
        "scale": scales[integer(0, 3)],
        "noise": terms,
        "rounding": ROUNDING,
        "dense": (0.1, torch.randn(rows, columns, generator=generator, dtype=compute)) if integer(0, 2) else None,
        "rows": torch.randperm(rows, generator=generator)[: integer(1, rows + 1)] if integer(0, 2) else None,
        "window": Window(integer(0, 2**31), integer(0, 50), 2000) if integer(0, 2) else None,
        "mask": [None, LaneMask(address(3), integer(0, 30_000), integer(30_000, 65_537)), MagnitudeMask(0.5)][
            integer(0, 3)
        ],
    }
    in_place, mirrors = bool(integer(0, 2)), bool(integer(0, 2))

    def call():
        out = base.clone() if in_place else torch.full_like(base, float("nan"))
        mirrored = torch.full_like(base, float("nan")) if mirrors else None
        add(out, out if in_place else base, **options, mirrored=mirrored)
        return out if mirrored is None else torch.cat((out, mirrored))

    return call


def half_patterns(dtype):
    """Return a tensor of all 65,536 patterns of a half type."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
