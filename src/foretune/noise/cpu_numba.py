"""The noise on CPU tensors, compiled by Numba; the same bits as `reference`.

A call is cut into pieces that a few threads take in turn (`cpu_threads`), and a piece into tiles that stay
in the first-level cache: load the tile as float32 (float64), add every term, round, store; what needs no more than the
terms is added to the tensors themselves. What takes the time is vector code of our own (`cpu_vectors`). The tile after
the next is fetched meanwhile: the processor's own prefetching does not see through so much work between two loads.

Which thread computes an element has no influence on its value.

Every sum and product of integers is wrapped in its type, for Numba widens them to 64 bits. `fastmath` stays
off: a fused multiply-add would change bits.
"""

from __future__ import annotations

import functools
import inspect
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numba.core.ccallback import CFunc
from numba.extending import overload
from torch import Tensor

from foretune.noise import cpu_memory, cpu_vectors
from foretune.noise.address import Law, Noise
from foretune.noise.cpu_memory import LINE, fetch, pointer, stack
from foretune.noise.cpu_threads import KERNEL_SIGNATURE, run_kernel
from foretune.noise.cpu_vectors import (
    BLOCK,
    WORD_BYTES,
    add_multiple_block,
    add_opposite_multiples_block,
    add_products_block,
    look_up_block,
    philox_and_look_up_block,
    philox_block,
)
from foretune.noise.layout import Layout
from foretune.noise.mask import ElementMask, LaneMask
from foretune.noise.table import quantile_table

_TILE = 1 << 8  # its temporaries and the table leave room in the cache for what is fetched ahead
_ACC_BYTES = 8 * _TILE
_AHEAD = 2 * _TILE  # what is fetched into the cache while the noise of a tile is made
_NUM_BLOCKS = _TILE // BLOCK + 1  # a tile may begin and end within a counter
_WORD_BYTES = WORD_BYTES * _NUM_BLOCKS
_VALUE_BYTES = 4 * 128 * (_TILE // 128 + 1)  # the Rademacher law expands whole counters

_TABLE = quantile_table()
_BITS_OF_OCTETS = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little")
_SIGNS = np.where(_BITS_OF_OCTETS == 1, np.float32(1), np.float32(-1))
_RADEMACHER = np.uint32(Law.RADEMACHER)
_U32, _U64 = np.uint32, np.uint64
_F32_INFINITY = np.uint32(0x7F800000)
_jit = njit(nogil=True)  # compiled into the kernels, which are cached as a whole


def fill(out: Tensor, noise: Noise) -> None:
    """Write z into the contiguous tensor `out`, rounded to nearest."""
    layout = Layout(1, out.numel(), 0, 0, out.numel(), None)
    _run("fill", out, layout, [out.data_ptr()], [], [noise])


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
    coefficient, summand = (0.0, 0) if dense is None else (dense[0], dense[1].data_ptr())
    noises = [noise for _, noise in terms]
    specific = [out.data_ptr(), base.data_ptr(), summand]
    coefficients = [scale, coefficient, *(c for c, _ in terms)]
    if mask is None:
        specific += [_KEEP_ALL, 0, 0]
    elif isinstance(mask, LaneMask):
        specific += [_KEEP_LANES, mask.start, mask.stop]
        noises.append(mask.address)
    else:
        specific += [_KEEP_MAGNITUDES, 0, 0]
        coefficients.append(mask.limit)
    specific.append(0 if mirrored is None else mirrored.data_ptr())
    _run("add", out, layout, specific, coefficients, noises, rounding, num_terms=len(terms))


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
    left, right = left.contiguous(), right.t().contiguous()
    pointers = [out.data_ptr(), base.data_ptr(), left.data_ptr(), right.data_ptr(), left.shape[1]]
    _run("add_low_rank", out, layout, pointers, [scale], [], rounding)


# Driving the kernels.
#
# A kernel is a C function of the address of its arguments, of start and of stop: it writes elements start to
# stop - 1 of those selected. The arguments are integers and behind them floats:
# `_HEADER` integers, one row for each noise address, and what the kernel itself asks for.

_HEADER = 12
_KEEP_ALL, _KEEP_LANES, _KEEP_MAGNITUDES = 0, 1, 2
_WORDS_PER_ADDRESS = 5
_STORAGE = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.uint16,  # Numba has no half types: kernels convert the bits
    torch.bfloat16: np.uint16,
}


def _run(
    name: str,
    out: Tensor,
    layout: Layout,
    specific: list[int],
    floats: list[float],
    noises: Sequence[Noise],
    rounding: Noise | None = None,
    *,
    num_terms: int = 0,
) -> None:
    """Run a kernel over every selected element, on PyTorch's number of threads if that is worth it."""
    num_rows, row_length, row_start, col_start, full_width, rows = layout
    rows = rows if rows is None else rows.contiguous()
    addresses = noises if rounding is None else [rounding, *noises]
    num_numbers = _HEADER + _WORDS_PER_ADDRESS * len(addresses)
    integers = [
        num_rows,
        row_length,
        row_start,
        col_start,
        full_width,
        0 if rows is None else rows.data_ptr(),
        out.dtype == torch.float16,
        num_terms,
        rounding is not None,
        num_numbers,
        num_numbers + len(specific),
        _TABLE.data_ptr(),
    ]
    for noise in addresses:
        integers += (noise.key & 0xFFFFFFFF, noise.key >> 32, noise.stream, noise.purpose, noise.law)
    arguments = _packer(num_numbers + len(specific), len(floats))(*integers, *specific, *floats)
    address: Any = _kernel(name, out.dtype).address
    run_kernel(address, arguments, layout.num_selected * row_length)


@functools.cache
def _packer(num_integers: int, num_floats: int) -> Callable[..., bytes]:
    return struct.Struct(f"{num_integers}q{num_floats}d").pack


# The kernels.


class _Memory(NamedTuple):
    """Addresses of what the noise of a tile is made in; arrays of it are made where they are used, which is free.

    Attributes:
        words: `_WORD_BYTES` for what Philox returns.
        z: `_VALUE_BYTES` for the values of the noise.
        table: Bits of the quantiles.
    """

    words: int
    z: int
    table: int


@_jit
def _lanes_in(memory):
    return carray(pointer(memory.words, np.uint16), (_WORD_BYTES // 2,))


@_jit
def _z_in(memory):
    return carray(pointer(memory.z, np.float32), (_VALUE_BYTES // 4,))


class _Tile(NamedTuple):
    """Addresses of a tile in the tensor that is written and in the one that is read; 0: it is in none."""

    out: int
    base: int


_NOWHERE = _Tile(0, 0)


@_jit
def _fetch_block(ahead, block, itemsize):
    """Ask for the cache lines of one block of a tile."""
    if ahead.out != 0:
        for line in range(BLOCK * itemsize // LINE):
            place = block * BLOCK * itemsize + line * LINE
            fetch(ahead.base + place, 0)
            fetch(ahead.out + place, 1)


@_jit
def _philox_words(memory, counter, count, address):
    """Write the Philox4x32-10 words of counters counter .. counter + count - 1, and of up to seven more."""
    for block in range((count + 7) >> 3):
        philox_block(counter + 8 * block, address, memory.words + WORD_BYTES * block)


@_jit
def _lanes(memory, element, n, address):
    """Write the lanes of `n` elements; that of element i is ``_lanes_in(memory)[returned + i]``."""
    skip = element & 7
    _philox_words(memory, element >> 3, (skip + n + 7) >> 3, address)
    return skip


@_jit
def _values(memory, element, n, address, ahead, itemsize):
    """Write z of `n` elements; that of element i is ``_z_in(memory)[returned + i]``. Fetch what is ahead meanwhile."""
    if address[4] == _RADEMACHER:
        for block in range(n // BLOCK):
            _fetch_block(ahead, block, itemsize)
        return _rademacher(memory, element, n, address)
    skip = element & 7
    counter, num_blocks = element >> 3, (skip + n + BLOCK - 1) // BLOCK
    words, z = memory.words, memory.z
    philox_block(counter, address, words)
    if num_blocks > 1:
        philox_block(counter + 8, address, words + WORD_BYTES)
    # values are looked up by the words of two blocks before: those of the block before are not through yet
    done = 0
    for block in range(2, num_blocks):
        _fetch_block(ahead, done, itemsize)
        done += 1
        philox_and_look_up_block(counter + 8 * block, address, words + 2 * WORD_BYTES, words, memory.table, z)
        words += WORD_BYTES
        z += 4 * BLOCK
    for _ in range(min(2, num_blocks)):
        _fetch_block(ahead, done, itemsize)
        done += 1
        look_up_block(words, memory.table, z)
        words += WORD_BYTES
        z += 4 * BLOCK
    return skip


@_jit
def _rademacher(memory, element, n, address):
    """Do what `_values` does, for the law of that name."""
    skip = element & 127
    count = (skip + n + 127) >> 7
    _philox_words(memory, element >> 7, count, address)
    z, octets = _z_in(memory), carray(pointer(memory.words, np.uint8), (_WORD_BYTES,))
    for j in range(16 * count):
        first = _U64(octets[j]) * _U64(8)
        eight = z[8 * j : 8 * j + 8]
        for b in range(8):
            eight[b] = _SIGNS[_U64(first + _U64(b))]
    return skip


class _Sums(NamedTuple):
    """Addresses of a tile: a multiple of noise is added to `base`, and taken from `opposite_base` if that is asked for.

    Attributes:
        base: What is read.
        out: What is written; may be the same.
        opposite_base: What the opposite reads.
        opposite: What it writes.
    """

    base: int
    out: int
    opposite_base: int
    opposite: int


@_jit
def _add_multiple(z, coefficient, n, sums, mirrors, compute):
    """Add a multiple of the `n` values at address `z` in the precision `compute`."""
    values = carray(pointer(z, np.float32), (n,))
    base, out = carray(pointer(sums.base, compute), (n,)), carray(pointer(sums.out, compute), (n,))
    opposite_base = carray(pointer(sums.opposite_base, compute), (n,))
    opposite = carray(pointer(sums.opposite, compute), (n,))
    whole = n - n % BLOCK
    for i in range(0, whole, BLOCK):
        block, place = z + 4 * i, i * out.itemsize
        if mirrors:
            add_opposite_multiples_block(
                block,
                coefficient,
                sums.base + place,
                sums.out + place,
                sums.opposite_base + place,
                sums.opposite + place,
            )
        else:
            add_multiple_block(block, coefficient, sums.base + place, sums.out + place)
    for i in range(whole, n):
        before, change = base[i], coefficient * values[i]
        if mirrors:
            opposite[i] = opposite_base[i] - change
        out[i] = before + change


def _load(acc, base, n, is_float16):
    raise NotImplementedError  # compiled only, by the overload below


@overload(_load)
def _load_for(acc, base, n, is_float16):
    if isinstance(base.dtype, types.Float):

        def load(acc, base, n, is_float16):
            for i in range(n):
                acc[i] = base[i]
    else:

        def load(acc, base, n, is_float16):
            if is_float16:
                for i in range(n):
                    half = _U32(base[i])
                    rest = _U32(half & _U32(0x7FFF))
                    bits = _U32(_U32(rest << _U32(13)) + _U32(112 << 23))  # exponent bias 15 to 127
                    bits = _U32(_U32(bits + _U32(112 << 23)) if rest >= _U32(0x7C00) else bits)  # inf, nan
                    tiny = np.float32(np.float32(np.int32(rest)) * np.float32(2.0**-24)).view(np.uint32)
                    bits = _U32(tiny if rest < _U32(0x400) else bits)
                    acc[i] = _U32(bits | _U32(_U32(half & _U32(0x8000)) << _U32(16))).view(np.float32)
            else:
                for i in range(n):
                    acc[i] = _U32(_U32(base[i]) << _U32(16)).view(np.float32)

    return load


def _store(out, acc, n, lanes, is_float16):
    raise NotImplementedError  # compiled only, by the overload below


@overload(_store)
def _store_for(out, acc, n, lanes, is_float16):
    """Store a tile; half types by adding the lanes to what is cut off: `reference.round_stochastically`."""
    if isinstance(out.dtype, types.Float):

        def store(out, acc, n, lanes, is_float16):
            for i in range(n):
                out[i] = acc[i]
    else:

        def store(out, acc, n, lanes, is_float16):
            if is_float16:
                for i in range(n):
                    bits, lane = np.float32(acc[i]).view(np.uint32), _U32(lanes[i])
                    magnitude = _U32(bits & _U32(0x7FFFFFFF))
                    fixed = _U32(np.int32(np.float32(abs(acc[i]) * np.float32(2.0**40))))
                    tiny = _U32(_U32(fixed + lane) >> _U32(16))
                    rounded = _U32(_U32(magnitude + _U32(lane >> _U32(3))) >> _U32(13))
                    rounded = _U32(rounded - _U32(112 << 10))
                    rounded = _U32(tiny if magnitude < _U32(113 << 23) else rounded)
                    rounded = _U32(min(rounded, _U32(0x7C00)))
                    rounded = _U32(rounded if magnitude <= _F32_INFINITY else _U32(0x7E00))
                    out[i] = np.uint16(_U32(rounded | _U32(_U32(bits >> _U32(16)) & _U32(0x8000))))
            else:
                for i in range(n):
                    bits = np.float32(acc[i]).view(np.uint32)
                    magnitude = _U32(bits & _U32(0x7FFFFFFF))
                    rounded = _U32(_U32(magnitude + _U32(lanes[i])) >> _U32(16))  # at most inf's, if x is not nan
                    rounded = _U32(rounded if magnitude <= _F32_INFINITY else _U32(0x7FC0))
                    out[i] = np.uint16(_U32(rounded | _U32(_U32(bits >> _U32(16)) & _U32(0x8000))))

    return store


def _store_nearest(out, z, n, is_float16):
    raise NotImplementedError  # compiled only, by the overload below


@overload(_store_nearest)
def _store_nearest_for(out, z, n, is_float16):
    """Store a tile of z rounded to nearest, ties to even; every |z| is normal in both half types."""
    if isinstance(out.dtype, types.Float):

        def store(out, z, n, is_float16):
            for i in range(n):
                out[i] = z[i]
    else:

        def store(out, z, n, is_float16):
            shift = _U32(13) if is_float16 else _U32(16)
            rebias = _U32(112 << 10) if is_float16 else _U32(0)
            below_half = _U32(_U32(_U32(1) << _U32(shift - _U32(1))) - _U32(1))
            for i in range(n):
                bits = np.float32(z[i]).view(np.uint32)
                magnitude = _U32(bits & _U32(0x7FFFFFFF))
                odd = _U32(_U32(magnitude >> shift) & _U32(1))
                rounded = _U32(_U32(_U32(magnitude + _U32(below_half + odd)) >> shift) - rebias)
                out[i] = np.uint16(_U32(rounded | _U32(_U32(bits >> _U32(16)) & _U32(0x8000))))

    return store


@_jit
def _address(integers, index):
    """Return address `index`: key low, key high, stream, purpose, law."""
    i = _HEADER + _WORDS_PER_ADDRESS * index
    key = _U32(integers[i]), _U32(integers[i + 1])
    return (*key, _U32(integers[i + 2]), _U32(integers[i + 3]), _U32(integers[i + 4]))


@_jit
def _unpacked(arguments):
    """Return pointers to the integers and to the floats behind them."""
    integers = pointer(arguments, np.int64)
    return integers, pointer(arguments + 8 * integers[10], np.float64)


@_jit
def _place(integers, position, stop):
    """Return the row, column, memory offset and element of a position, and the length of its tile."""
    num_rows, row_length = integers[0], integers[1]
    row_start, col_start, full_width = integers[2], integers[3], integers[4]
    row, column = position // row_length, position % row_length
    if integers[5]:
        row = carray(pointer(integers[5], np.int64), (num_rows,))[row]
    n = min(_TILE, row_length - column, stop - position)
    element = (row_start + row) * full_width + col_start + column
    return row, column, row * row_length + column, element, n


@_jit
def _tile_at(integers, offset, itemsize):
    """Return the tile at an offset of the tensors that are written and read, the first that a kernel asks for."""
    out, base = integers[integers[9]], integers[integers[9] + 1]
    return _Tile(out + offset * itemsize, base + offset * itemsize)


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> CFunc:
    """Compile a kernel for tensors of this dtype, or load it from Numba's cache."""
    storage = _STORAGE[dtype]
    compute = np.float64 if storage is np.float64 else np.float32
    sources = "".join(map(inspect.getsource, (cpu_memory, cpu_vectors)))
    intrinsics = zlib.crc32(sources.encode()) | 1
    return cfunc(KERNEL_SIGNATURE, cache=True)(_ENTRIES[name](storage, compute, intrinsics))


# Numba's cache knows a kernel by the time of this file and by what the kernel closes over: types, and a number of the
# other files that it is compiled from. (A function among them would never match.)


def _fill_entry(storage: type[np.generic], compute: type[np.generic], intrinsics: int) -> Callable[..., None]:
    def fill(arguments, start, stop):
        if intrinsics:
            _fill(arguments, start, stop, storage)

    return fill


def _add_entry(storage: type[np.generic], compute: type[np.generic], intrinsics: int) -> Callable[..., None]:
    def add(arguments, start, stop):
        if intrinsics:
            _add(arguments, start, stop, storage, compute)

    return add


def _add_low_rank_entry(storage: type[np.generic], compute: type[np.generic], intrinsics: int) -> Callable[..., None]:
    def add_low_rank(arguments, start, stop):
        if intrinsics:
            _add_low_rank(arguments, start, stop, storage, compute)

    return add_low_rank


_ENTRIES = {"fill": _fill_entry, "add": _add_entry, "add_low_rank": _add_low_rank_entry}


@_jit
def _fill(arguments, start, stop, storage):
    """Asks for: pointer of out."""
    integers, _ = _unpacked(arguments)
    out = carray(pointer(integers[integers[9]], storage), (integers[1],))
    is_float16, address = integers[6] != 0, _address(integers, 0)
    memory = _Memory(stack(_WORD_BYTES), stack(_VALUE_BYTES), integers[11])
    z = _z_in(memory)
    for element in range(start, stop, _TILE):
        n = min(_TILE, stop - element)
        if out.itemsize == z.itemsize and element % 8 == 0 and n % BLOCK == 0 and address[4] != _RADEMACHER:
            there = _Memory(memory.words, integers[integers[9]] + 4 * element, memory.table)
            _values(there, element, n, address, _NOWHERE, out.itemsize)
        else:
            skip = _values(memory, element, n, address, _NOWHERE, out.itemsize)
            _store_nearest(out[element : element + n], z[skip:], n, is_float16)


@_jit
def _add(arguments, start, stop, storage, compute):
    """Asks for: pointers of out, base and dense (or 0), kind of mask, its first lane and the one behind its last,
    pointer of mirrored (or 0).

    Floats are scale, dense's coefficient, one a term, the mask's limit; addresses are the rounding's, the terms', the
    mask's.
    """
    integers, floats = _unpacked(arguments)
    is_float16, num_terms, rounds = integers[6] != 0, integers[7], integers[8] != 0
    size, specific = integers[0] * integers[1], integers[9]
    out = carray(pointer(integers[specific], storage), (size,))
    base = carray(pointer(integers[specific + 1], storage), (size,))
    dense = carray(pointer(integers[specific + 2], compute), (size,))
    keeps, first_lane, behind_lane = integers[specific + 3], integers[specific + 4], integers[specific + 5]
    mirrored, mirrors = carray(pointer(integers[specific + 6], storage), (size,)), integers[specific + 6] != 0
    scale, dense_coefficient = compute(floats[0]), compute(floats[1])
    limit = compute(floats[2 + num_terms]) if keeps == _KEEP_MAGNITUDES else compute(0)
    memory = _Memory(stack(_WORD_BYTES), stack(_VALUE_BYTES), integers[11])
    lanes, acc_address, opposite_address = _lanes_in(memory), stack(_ACC_BYTES), stack(_ACC_BYTES)
    acc = carray(pointer(acc_address, compute), (_TILE,))
    opposite = carray(pointer(opposite_address, compute), (_TILE,))
    before = carray(pointer(stack(_ACC_BYTES), compute), (_TILE,))
    first_term = 1 if rounds else 0
    # noise alone is added to the tensors themselves, if they have the precision
    direct = out.itemsize == acc.itemsize and num_terms > 0 and scale == 1 and dense_coefficient == 0
    direct = direct and keeps == _KEEP_ALL
    position = start
    while position < stop:
        _, _, offset, element, n = _place(integers, position, stop)
        tile, ahead = _tile_at(integers, offset, out.itemsize), _NOWHERE
        if position + _AHEAD < stop:
            ahead = _tile_at(integers, offset + _AHEAD, out.itemsize)
        if direct:
            sums = _Sums(tile.base, tile.out, tile.base, integers[specific + 6] + offset * out.itemsize)
        else:
            _load(acc, base[offset : offset + n], n, is_float16)
            if scale != 1:
                for i in range(n):
                    acc[i] = acc[i] * scale
            if mirrors:
                for i in range(n):
                    opposite[i] = acc[i]
            if dense_coefficient != 0:
                summand = dense[offset : offset + n]
                for i in range(n):
                    acc[i] = acc[i] + dense_coefficient * summand[i]
                if mirrors:
                    for i in range(n):
                        opposite[i] = opposite[i] - dense_coefficient * summand[i]
            sums = _Sums(acc_address, acc_address, opposite_address, opposite_address)
        for term in range(num_terms):
            skip = _values(memory, element, n, _address(integers, first_term + term), ahead, out.itemsize)
            _add_multiple(memory.z + 4 * skip, compute(floats[2 + term]), n, sums, mirrors, compute)
            sums, ahead = _Sums(sums.out, sums.out, sums.opposite, sums.opposite), _NOWHERE
        if keeps != _KEEP_ALL:
            _load(before, base[offset : offset + n], n, is_float16)
        if keeps == _KEEP_LANES:
            skip = _lanes(memory, element, n, _address(integers, first_term + num_terms))
            for i in range(n):
                lane = lanes[skip + i]
                acc[i] = acc[i] if first_lane <= lane and lane < behind_lane else before[i]
                if mirrors:
                    opposite[i] = opposite[i] if first_lane <= lane and lane < behind_lane else before[i]
        if keeps == _KEEP_MAGNITUDES:
            for i in range(n):
                acc[i] = acc[i] if abs(before[i]) <= limit else before[i]
                if mirrors:
                    opposite[i] = opposite[i] if abs(before[i]) <= limit else before[i]
        if not direct:
            skip = _lanes(memory, element, n, _address(integers, 0)) if rounds else 0
            _store(out[offset : offset + n], acc, n, lanes[skip:], is_float16)
            if mirrors:
                _store(mirrored[offset : offset + n], opposite, n, lanes[skip:], is_float16)
        position += n


@_jit
def _add_low_rank(arguments, start, stop, storage, compute):
    """Asks for: pointers of out, base, left (m, r), right (r, n), and r; floats are scale."""
    integers, floats = _unpacked(arguments)
    is_float16, rounds = integers[6] != 0, integers[8] != 0
    num_rows, row_length, specific = integers[0], integers[1], integers[9]
    rank = integers[specific + 4]
    out = carray(pointer(integers[specific], storage), (num_rows * row_length,))
    base = carray(pointer(integers[specific + 1], storage), (num_rows * row_length,))
    left = carray(pointer(integers[specific + 2], compute), (num_rows, rank))
    right = carray(pointer(integers[specific + 3], compute), (rank, row_length))
    scale = compute(floats[0])
    memory = _Memory(stack(_WORD_BYTES), stack(_VALUE_BYTES), integers[11])
    lanes = _lanes_in(memory)
    acc_address = stack(_ACC_BYTES)
    acc = carray(pointer(acc_address, compute), (_TILE,))
    direct = out.itemsize == acc.itemsize and scale == 1
    position = start
    while position < stop:
        row, column, offset, element, n = _place(integers, position, stop)
        tile, ahead = _tile_at(integers, offset, out.itemsize), _NOWHERE
        if position + _AHEAD < stop:
            ahead = _tile_at(integers, offset + _AHEAD, out.itemsize)
        if not direct:
            tile = _Tile(acc_address, acc_address)
            _load(acc, base[offset : offset + n], n, is_float16)
            if scale != 1:
                for i in range(n):
                    acc[i] = acc[i] * scale
        row_of_left = integers[specific + 2] + row * rank * acc.itemsize
        whole = n - n % BLOCK
        for i in range(0, whole, BLOCK):
            _fetch_block(ahead, i // BLOCK, out.itemsize)
            place, column_of_right = i * acc.itemsize, integers[specific + 3] + (column + i) * acc.itemsize
            add_products_block(
                row_of_left, column_of_right, row_length, rank, tile.base + place, tile.out + place, compute
            )
        summed, there = carray(pointer(tile.base, compute), (n,)), carray(pointer(tile.out, compute), (n,))
        for i in range(whole, n):
            total = summed[i]
            for j in range(rank):
                total = total + left[row, j] * right[j, column + i]
            there[i] = total
        if not direct:
            skip = _lanes(memory, element, n, _address(integers, 0)) if rounds else 0
            _store(out[offset : offset + n], acc, n, lanes[skip:], is_float16)
        position += n
