"""The noise in plain PyTorch, on any device: the specification the fast backends are compared with, bit for
bit.

Shape letters: S segments (rows that are written), L elements of a segment, C counters of a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from foretune.noise.address import Law, Noise
from foretune.noise.layout import Layout
from foretune.noise.mask import ElementMask, LaneMask
from foretune.noise.table import TABLE_SIZE, quantile_table

LANES_PER_COUNTER = 8
BITS_PER_COUNTER = 128
_SIGN_BIT = 1 << 15  # of a lane; its low 13 bits are the index into the table, the two between are not used
_CHUNK = 1 << 20  # elements at a time: bounds the int64 temporaries to some tens of MB
_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10.

    Args:
        counter: Four int64 tensors of one shape, each value a 32-bit word.
        key: Two 32-bit words, low first.

    Returns:
        Four int64 tensors of that shape, each value a 32-bit word.

    References:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # A product may pass 2**63: int64 wraps modulo 2**64, so the masked halves are still right.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK32) ^ c1 ^ k0,
            product1 & _MASK32,
            ((product0 >> 32) & _MASK32) ^ c3 ^ k1,
            product0 & _MASK32,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3


def lanes(starts: Tensor, length: int, noise: Noise) -> Tensor:
    """Return the lanes of elements ``starts[s] + 0 .. length - 1``, int64 (S, L); starts is int64 (S,)."""
    words = _words(starts, length, LANES_PER_COUNTER, noise)
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(1)
    return _take(halves, starts % LANES_PER_COUNTER, length)


def values(starts: Tensor, length: int, noise: Noise) -> Tensor:
    """Return z of elements ``starts[s] + 0 .. length - 1``, float32 (S, L)."""
    if noise.law is Law.RADEMACHER:
        words = _words(starts, length, BITS_PER_COUNTER, noise)
        bits = (words.unsqueeze(-1) >> torch.arange(32, device=words.device)) & 1
        return (2 * _take(bits.flatten(1), starts % BITS_PER_COUNTER, length) - 1).float()
    lane = lanes(starts, length, noise)
    magnitude = quantile_table(lane.device)[lane & (TABLE_SIZE - 1)]
    return torch.where(lane >= _SIGN_BIT, -magnitude, magnitude)


@torch.no_grad()
def fill(out: Tensor, noise: Noise) -> None:
    """Write z into the contiguous tensor `out`, rounded to nearest."""
    out = out.view(-1)
    for start in range(0, out.numel(), _CHUNK):
        part = out[start : start + _CHUNK]
        part.copy_(values(torch.tensor([start], device=out.device), part.numel(), noise)[0])


@torch.no_grad()
def add(
    out: Tensor,
    base: Tensor,
    layout: Layout,
    scale: float,
    dense: tuple[float, Tensor] | None,
    terms: Sequence[tuple[float, Noise]],
    rounding: Noise | None,
    mask: ElementMask | None,
    mirrored: Tensor | None,
) -> None:
    """See `foretune.noise.add`; contiguous tensors, coefficients rounded already and none of them 0."""
    if mirrored is not None:  # first: `out` may be `base`
        negated = [(-coefficient, noise) for coefficient, noise in terms]
        opposite = None if dense is None else (-dense[0], dense[1])
        add(mirrored, base, layout, scale, opposite, negated, rounding, mask, None)
    out, base = (tensor.view(layout.num_rows, layout.row_length) for tensor in (out, base))
    for rows, columns, starts in _blocks(layout, out.device):
        before = _scaled(base[rows, columns], 1.0)
        acc = _scaled(before, scale)
        if dense is not None:
            acc = acc + dense[0] * dense[1].view(out.shape)[rows, columns]
        for coefficient, noise in terms:
            acc = acc + coefficient * values(starts, acc.shape[1], noise).to(acc.dtype)
        if mask is not None:
            acc = torch.where(_kept(mask, before, starts), acc, before)
        out[rows, columns] = _rounded(acc, out.dtype, starts, rounding)


@torch.no_grad()
def add_low_rank(
    out: Tensor,
    base: Tensor,
    left: Tensor,
    right: Tensor,
    layout: Layout,
    scale: float,
    rounding: Noise | None,
) -> None:
    """See `foretune.noise.add_low_rank`; contiguous `out` and `base`, left (m, r), right (n, r)."""
    out, base = (tensor.view(layout.num_rows, layout.row_length) for tensor in (out, base))
    for rows, columns, starts in _blocks(layout, out.device):
        acc = _scaled(base[rows, columns], scale)
        for rank in range(left.shape[1]):
            acc = acc + left[rows, rank, None] * right[columns, rank]
        out[rows, columns] = _rounded(acc, out.dtype, starts, rounding)


def round_stochastically(x: Tensor, lane: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 `x` to float16 or bfloat16: up in magnitude with the probability of the part that is cut
    off.

    `lane` holds 16 random bits an element (int64). bfloat16 and normal float16 are exactly unbiased; below
    2**-14 a float16 is cut off beyond 2**-40. A representable value stays; inf stays; every nan becomes the
    quiet one.
    """
    bits = x.view(torch.int32).to(torch.int64) & _MASK32
    sign, magnitude = (bits >> 16) & 0x8000, bits & 0x7FFFFFFF
    if dtype == torch.bfloat16:
        rounded = (magnitude + lane) >> 16
        infinity, quiet_nan = 0x7F80, 0x7FC0
    else:
        infinity, quiet_nan = 0x7C00, 0x7E00
        normal = ((magnitude + (lane >> 3)) >> 13) - (112 << 10)  # 13 bits are cut off; exponent bias 127 to 15
        tiny = magnitude < (113 << 23)  # |x| < 2**-14: a fixed-point number in units of 2**-24
        fixed = (x.abs().where(tiny, 0.0) * 2.0**40).to(torch.int64)
        rounded = torch.where(tiny, (fixed + lane) >> 16, normal)
    rounded = rounded.clamp(max=infinity).where(magnitude <= 0x7F800000, quiet_nan)
    pattern = sign | rounded
    return (pattern - ((pattern & 0x8000) << 1)).to(torch.int16).view(dtype)


def _words(starts: Tensor, length: int, per_counter: int, noise: Noise) -> Tensor:
    """Return the Philox words of every counter that elements of the segments touch, int64 (S, 4 C)."""
    num_counters = (length + 2 * per_counter - 2) // per_counter  # a segment may start on a counter's last element
    index = (starts // per_counter)[:, None] + torch.arange(num_counters, device=starts.device)
    stream, purpose = torch.full_like(index, noise.stream), torch.full_like(index, int(noise.purpose))
    key = (noise.key & _MASK32, noise.key >> 32)
    return torch.stack(philox((index & _MASK32, index >> 32, stream, purpose), key), dim=-1).flatten(1)


def _take(values: Tensor, skip: Tensor, length: int) -> Tensor:
    """Return ``values[s, skip[s] : skip[s] + length]`` for each segment."""
    return values.gather(1, skip[:, None] + torch.arange(length, device=values.device))


def _blocks(layout: Layout, device: torch.device) -> Iterator[tuple[Tensor, slice, Tensor]]:
    """Yield local rows (S,), columns, and the element (S,) at which each row's columns start."""
    rows = torch.arange(layout.num_rows, device=device) if layout.rows is None else layout.rows
    for some_rows in rows.split(max(1, _CHUNK // layout.row_length)):
        for column in range(0, layout.row_length, _CHUNK):
            starts = (layout.row_start + some_rows) * layout.full_width + layout.col_start + column
            yield some_rows, slice(column, min(column + _CHUNK, layout.row_length)), starts


def _kept(mask: ElementMask, before: Tensor, starts: Tensor) -> Tensor:
    if isinstance(mask, LaneMask):
        lane = lanes(starts, before.shape[1], mask.address)
        return (lane >= mask.start) & (lane < mask.stop)
    return before.abs() <= torch.tensor(mask.limit, dtype=before.dtype)


def _scaled(base: Tensor, scale: float) -> Tensor:
    acc = base if base.dtype == torch.float64 else base.float()
    return acc if scale == 1.0 else acc * scale


def _rounded(acc: Tensor, dtype: torch.dtype, starts: Tensor, rounding: Noise | None) -> Tensor:
    if rounding is None:
        return acc
    return round_stochastically(acc, lanes(starts, acc.shape[1], rounding), dtype)
