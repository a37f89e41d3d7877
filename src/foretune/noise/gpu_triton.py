"""The noise on CUDA tensors, as Triton kernels; the same bits as `reference`.

A program writes one tile: R rows of O octets. An octet is eight elements whose indexes in the parameter start at
a multiple of 8: one Philox counter gives all of their lanes, so a thread that holds an octet computes it once.
A tile is loaded as float32 (float64), every term is added, and it is rounded and stored.

What differs from call to call at the same place of a step (keys, coefficients, limits) is read from device
memory: another value never compiles a kernel anew, and a captured launch can be given new ones. They arrive in
one asynchronous copy from pinned memory; nothing here waits for the device.

Two launch options carry the contract. ``enable_fp_fusion=False`` keeps LLVM and ptxas from contracting a product
and a sum. ``debug=True`` arms the check of row indexes, as PyTorch's own indexing has it; ``sanitize_overflow``
is off because Philox overflows on purpose.

Shape letters: R rows of a tile, O octets of its rows. Values are (R, O, 8).
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from foretune.errors import UsageError
from foretune.noise.address import Law, Noise
from foretune.noise.layout import Layout
from foretune.noise.mask import ElementMask, LaneMask
from foretune.noise.table import TABLE_SIZE, quantile_table

_INDEX_MASK = tl.constexpr(TABLE_SIZE - 1)
_RADEMACHER = tl.constexpr(int(Law.RADEMACHER))
_KEEP_ALL, _KEEP_LANES, _KEEP_MAGNITUDES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# Places in the integers: an address takes four (key, stream, purpose, law).
_WORDS_PER_ADDRESS = tl.constexpr(4)
_ROUNDING, _MASK, _INTERVAL, _TERMS = tl.constexpr(0), tl.constexpr(4), tl.constexpr(8), tl.constexpr(10)
# Places in the floats.
_SCALE, _DENSE, _LIMIT, _COEFFICIENTS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)

_OPTIONS = {"enable_fp_fusion": False, "debug": True, "sanitize_overflow": False}


def fill(out: Tensor, noise: Noise) -> None:
    """Write z into the contiguous tensor `out`, rounded to nearest."""
    integers, _ = _on_device(out.device, [noise], [])
    _launch(_fill, Layout(1, out.numel(), 0, 0, out.numel()), out, quantile_table(out.device), integers)


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
    coefficient, summand = (0.0, None) if dense is None else dense
    keeps, limit, lanes_of, interval = _KEEP_ALL, 0.0, None, (0, 0)
    if isinstance(mask, LaneMask):
        keeps, lanes_of, interval = _KEEP_LANES, mask.address, (mask.start, mask.stop)
    elif mask is not None:
        keeps, limit = _KEEP_MAGNITUDES, mask.limit
    integers, floats = _on_device(
        out.device,
        [rounding, lanes_of, interval, *(noise for _, noise in terms)],
        [scale, coefficient, limit, *(c for c, _ in terms)],
    )
    tensors = mirrored, base, summand, quantile_table(out.device), integers, floats
    _launch(_add, layout, out, *tensors, len(terms), KEEPS=keeps.value)


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
    integers, floats = _on_device(out.device, [rounding], [scale])
    factors = left.t().contiguous(), right.t().contiguous()  # the layout `low_rank_factors` has: no copy
    _launch(_add_low_rank, layout, out, base, *factors, integers, floats, left.shape[1])


# Driving the kernels.


def _on_device(
    device: torch.device, addresses: Sequence[Noise | tuple[int, int] | None], floats: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return a kernel's integers (int64) and floats (float64) as parts of one tensor on `device`.

    None takes the place of an address that the kernel will not read.
    """
    integers = array("Q")
    for address in addresses:
        if isinstance(address, Noise):
            integers.extend((address.key, address.stream, address.purpose, address.law))
        else:
            integers.extend((0,) * _WORDS_PER_ADDRESS.value if address is None else address)
    packed = torch.frombuffer(bytearray(integers.tobytes() + array("d", floats).tobytes()), dtype=torch.int64)
    if device.type != "cpu":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return packed[: len(integers)], packed[len(integers) :].view(torch.float64)


def _launch(kernel: Any, layout: Layout, out: Tensor, *arguments: Tensor | int | None, **constants: int) -> None:
    """Run `kernel` over the selected rows of `out`."""
    if out.device.type == "cpu" and isinstance(kernel, triton.JITFunction):
        raise UsageError(
            f"The noise backend 'triton' writes to CUDA tensors; out is on {out.device}. "
            "Triton's interpreter writes to CPU tensors too, slowly: set TRITON_INTERPRET=1 before the program starts."
        )
    first = layout.row_start * layout.full_width + layout.col_start
    aligned = first % 8 == 0 and (layout.num_rows == 1 or layout.full_width % 8 == 0)
    tile_rows, tile_octets = (1, 128) if layout.num_rows == 1 else (16, 8)
    tiles_per_row = triton.cdiv(layout.row_length + (0 if aligned else 7), 8 * tile_octets)
    grid = (triton.cdiv(layout.num_selected, tile_rows) * tiles_per_row,)
    with torch.cuda.device_of(out):  # Triton launches on the current device
        kernel[grid](
            out,
            *arguments,
            layout.rows if layout.rows is None else layout.rows.contiguous(),
            layout.num_rows,
            layout.num_selected,
            layout.row_length,
            layout.row_start,
            layout.col_start,
            layout.full_width,
            tiles_per_row,
            ALIGNED=aligned,
            ROWS=tile_rows,
            OCTETS=tile_octets,
            **constants,
            **_OPTIONS,
        )


# The kernels. An argument in `_ANY_VALUE` never compiles a kernel anew; the others do once for every combination of
# "a multiple of 16" or not, which decides whether a tile is read with wide loads.

_ANY_VALUE = [
    *("integers", "floats", "num_terms", "rank"),
    *("num_rows", "num_selected", "row_start", "col_start", "tiles_per_row"),
]


def _kernel(function: Any) -> Any:
    names = inspect.signature(function).parameters
    return triton.jit(do_not_specialize=[name for name in _ANY_VALUE if name in names])(function)


@triton.jit
def _tile(
    rows,
    num_rows,
    num_selected,
    row_length,
    row_start,
    col_start,
    full_width,
    tiles_per_row,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    OCTETS: tl.constexpr,
):
    """Return where a program's tile is.

    Returns:
        Local rows (R, 1, 1), local columns ((1 or R), O, 8), octets (R, O, 1), whether an element exists (R, O, 8).
    """
    program = tl.program_id(0)
    row = (program // tiles_per_row).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    exists = row < num_selected
    if rows is not None:
        row = tl.load(rows + row, mask=exists, other=0)
        tl.device_assert((row >= 0) & (row < num_rows), "a row index lies outside of the tensor")
        exists = exists & (row >= 0) & (row < num_rows)
    first = (row + row_start) * full_width + col_start
    octet = (program % tiles_per_row).to(tl.int64) * OCTETS + tl.arange(0, OCTETS)[None, :, None]
    column = octet * 8 + tl.arange(0, 8)[None, None, :]
    if not ALIGNED:
        column -= first & 7
    return row, column, (first >> 3) + octet, exists & (column >= 0) & (column < row_length)


@triton.jit
def _words(address, counter):
    """Return the four Philox words of each counter, uint32; address points to key, stream, purpose."""
    stream, purpose = tl.load(address + 1).to(tl.uint32), tl.load(address + 2).to(tl.uint32)
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    return tl.philox(tl.load(address), low, high, stream, purpose)


@triton.jit
def _select(number, w0, w1, w2, w3):
    return tl.where(number < 2, tl.where(number < 1, w0, w1), tl.where(number < 3, w2, w3))


@triton.jit
def _lanes(address, octet):
    """Return the lanes of octets (R, O, 1), int32 (R, O, 8)."""
    w0, w1, w2, w3 = _words(address, octet)
    number = tl.arange(0, 8)[None, None, :]
    word = _select(number >> 1, w0, w1, w2, w3)
    return ((word >> ((number & 1) * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32)


@triton.jit
def _values(address, octet, table):
    """Return z of octets (R, O, 1), float32 (R, O, 8)."""
    if tl.load(address + 3) == _RADEMACHER:  # 16 octets share a counter
        w0, w1, w2, w3 = _words(address, octet >> 4)
        eight = _select((octet >> 2) & 3, w0, w1, w2, w3) >> ((octet & 3) * 8).to(tl.uint32)
        bit = (eight >> tl.arange(0, 8)[None, None, :].to(tl.uint32)) & 1
        z = tl.where(bit == 1, 1.0, -1.0)
    else:
        lane = _lanes(address, octet)
        magnitude = tl.load(table + (lane & _INDEX_MASK))
        z = tl.where(lane >= 0x8000, -magnitude, magnitude)
    return z


@triton.jit
def _widened(x):
    """Return a tile as float32, float64 as it is: exact."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    elif x.dtype == tl.float16:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _pattern(sign_of, rounded, dtype: tl.constexpr):
    """Return the half of a magnitude's pattern (int32) with the sign of a float32 pattern (int32)."""
    return (rounded | ((sign_of >> 16) & 0x8000)).to(tl.uint16).to(dtype, bitcast=True)


@triton.jit
def _rounded_stochastically(x, lane, dtype: tl.constexpr):
    """See `reference.round_stochastically`."""
    bits = x.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    number = tl.minimum(magnitude, 0x7F800000)  # nan apart, so that no sum overflows
    if dtype == tl.bfloat16:
        infinity: tl.constexpr = 0x7F80
        quiet_nan: tl.constexpr = 0x7FC0
        rounded = (number + lane) >> 16
    else:
        infinity: tl.constexpr = 0x7C00
        quiet_nan: tl.constexpr = 0x7E00
        tiny = number < (113 << 23)
        fixed = (tl.where(tiny, tl.abs(x), 0.0) * 1099511627776.0).to(tl.int32)  # 2**40
        rounded = tl.where(tiny, (fixed + lane) >> 16, ((number + (lane >> 3)) >> 13) - (112 << 10))
    rounded = tl.where(magnitude > 0x7F800000, quiet_nan, tl.minimum(rounded, infinity))
    return _pattern(bits, rounded, dtype)


@triton.jit
def _rounded_to_nearest(z, dtype: tl.constexpr):
    """Round z to `dtype`, ties to even; every |z| is normal in both half types."""
    if dtype == tl.float32:
        return z
    elif dtype == tl.float64:
        return z.to(tl.float64)
    else:
        shift: tl.constexpr = 16 if dtype == tl.bfloat16 else 13
        rebias: tl.constexpr = 0 if dtype == tl.bfloat16 else 112 << 10
        bits = z.to(tl.int32, bitcast=True)
        magnitude = bits & 0x7FFFFFFF
        odd = (magnitude >> shift) & 1
        return _pattern(bits, ((magnitude + ((1 << (shift - 1)) - 1) + odd) >> shift) - rebias, dtype)


@triton.jit
def _store(out, offset, acc, rounding, octet, inside):
    dtype: tl.constexpr = out.dtype.element_ty
    if dtype == tl.float32 or dtype == tl.float64:
        tl.store(out + offset, acc, mask=inside)
    else:
        tl.store(out + offset, _rounded_stochastically(acc, _lanes(rounding, octet), dtype), mask=inside)


@_kernel
def _fill(
    out,
    table,
    integers,
    rows,
    num_rows,
    num_selected,
    row_length,
    row_start,
    col_start,
    full_width,
    tiles_per_row,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    OCTETS: tl.constexpr,
):
    _, column, octet, inside = _tile(
        rows,
        num_rows,
        num_selected,
        row_length,
        row_start,
        col_start,
        full_width,
        tiles_per_row,
        ALIGNED,
        ROWS,
        OCTETS,
    )
    z = _values(integers, octet, table)
    tl.store(out + column, _rounded_to_nearest(z, out.dtype.element_ty), mask=inside)


@_kernel
def _add(
    out,
    mirrored,
    base,
    dense,
    table,
    integers,
    floats,
    num_terms,
    rows,
    num_rows,
    num_selected,
    row_length,
    row_start,
    col_start,
    full_width,
    tiles_per_row,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    OCTETS: tl.constexpr,
    KEEPS: tl.constexpr,
):
    """Where integers and floats lie is said at the top of the file."""
    row, column, octet, inside = _tile(
        rows,
        num_rows,
        num_selected,
        row_length,
        row_start,
        col_start,
        full_width,
        tiles_per_row,
        ALIGNED,
        ROWS,
        OCTETS,
    )
    offset = row * row_length + column
    before = _widened(tl.load(base + offset, mask=inside))
    compute: tl.constexpr = before.dtype
    acc = before
    scale = tl.load(floats + _SCALE).to(compute)
    if scale != 1.0:  # a nan times 1 would lose its bits
        acc = acc * scale
    opposite = acc
    if dense is not None:
        change = tl.load(floats + _DENSE).to(compute) * tl.load(dense + offset, mask=inside)
        acc = acc + change
        opposite = opposite - change
    for term in range(num_terms):
        z = _values(integers + _TERMS + _WORDS_PER_ADDRESS * term, octet, table)
        change = tl.load(floats + _COEFFICIENTS + term).to(compute) * z.to(compute)
        acc = acc + change
        opposite = opposite - change
    if KEEPS == _KEEP_LANES:
        lane = _lanes(integers + _MASK, octet)
        first, behind = tl.load(integers + _INTERVAL), tl.load(integers + _INTERVAL + 1)
        acc = tl.where((lane >= first) & (lane < behind), acc, before)
        opposite = tl.where((lane >= first) & (lane < behind), opposite, before)
    if KEEPS == _KEEP_MAGNITUDES:
        limit = tl.load(floats + _LIMIT).to(compute)
        acc = tl.where(tl.abs(before) <= limit, acc, before)
        opposite = tl.where(tl.abs(before) <= limit, opposite, before)
    _store(out, offset, acc, integers + _ROUNDING, octet, inside)
    if mirrored is not None:  # else the compiler drops what was made for it
        _store(mirrored, offset, opposite, integers + _ROUNDING, octet, inside)


@_kernel
def _add_low_rank(
    out,
    base,
    left,
    right,
    integers,
    floats,
    rank,
    rows,
    num_rows,
    num_selected,
    row_length,
    row_start,
    col_start,
    full_width,
    tiles_per_row,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    OCTETS: tl.constexpr,
):
    """`left` is (r, m) and `right` (r, n)."""
    row, column, octet, inside = _tile(
        rows,
        num_rows,
        num_selected,
        row_length,
        row_start,
        col_start,
        full_width,
        tiles_per_row,
        ALIGNED,
        ROWS,
        OCTETS,
    )
    offset = row * row_length + column
    acc = _widened(tl.load(base + offset, mask=inside))
    scale = tl.load(floats + _SCALE).to(acc.dtype)
    if scale != 1.0:
        acc = acc * scale
    in_left, in_right = (row >= 0) & (row < num_rows), (column >= 0) & (column < row_length)
    for _ in range(rank):
        factor = tl.load(left + row, mask=in_left)
        acc = acc + factor * tl.load(right + column, mask=in_right)
        left += num_rows
        right += row_length
    _store(out, offset, acc, integers + _ROUNDING, octet, inside)
