"""The noise on CPU tensors, compiled by Numba; the same bits as `reference`.

A call is cut into pieces that a few threads take in turn (`cpu_threads`), and a piece into tiles that stay
in the first-level cache: load the tile as float32 (float64), add every term, round, store. Working on a
copy of the tile is what lets the compiler vectorise a call whose `out` is its `base`. The tile after the next is
fetched meanwhile: the processor's own prefetching does not see through so much work between two loads.

Which thread computes an element has no influence on its value.

Every sum and product of integers is wrapped in its type, for Numba widens them to 64 bits. `fastmath` stays
off: a fused multiply-add would change bits.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic, overload
from torch import Tensor

from foretune.noise.address import Law, Noise
from foretune.noise.cpu_threads import KERNEL_SIGNATURE, run_kernel
from foretune.noise.layout import Layout
from foretune.noise.mask import ElementMask, LaneMask
from foretune.noise.table import TABLE_SIZE, quantile_table

_TILE = 1 << 8  # its temporaries and the table leave room in the cache for what is fetched ahead
_ACC_BYTES = 8 * _TILE
_AHEAD = 2 * _TILE  # what is fetched into the cache while the noise of a tile is made
_LINE = 64  # bytes the cache takes at a time
_WORD_BYTES = 16 * (_TILE // 8 + 1)  # a tile may begin and end within a counter
_VALUE_BYTES = 4 * 128 * (_TILE // 128 + 1)  # the Rademacher law expands whole counters

_TABLE = quantile_table()
_BITS_OF_OCTETS = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little")
_SIGNS = np.where(_BITS_OF_OCTETS == 1, np.float32(1), np.float32(-1))
_INDEX_MASK = np.uint64(TABLE_SIZE - 1)
_RADEMACHER = np.uint32(Law.RADEMACHER)
_SIGN_BIT = np.uint16(1 << 15)
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
        table: Bits of the quantiles. An address, not a constant: then the compiler does not turn the look-up into the
            vector unit's gather, which takes half as long again as scalar loads.
    """

    words: int
    z: int
    table: int


@_jit
def _lanes_in(memory):
    return carray(_pointer(memory.words, np.uint16), (_WORD_BYTES // 2,))


@_jit
def _z_in(memory):
    return carray(_pointer(memory.z, np.float32), (_VALUE_BYTES // 4,))


@_jit
def _philox_words(memory, counter, count, address):
    """Write the Philox4x32-10 words of counters counter .. counter + count - 1."""
    words = carray(_pointer(memory.words, np.uint32), (_WORD_BYTES // 4,))
    stream, purpose = address[2], address[3]
    for i in range(count):
        c = _U64(_U64(counter) + _U64(i))
        c0, c1, c2, c3 = _U32(c), _U32(c >> _U64(32)), stream, purpose
        k0, k1 = address[0], address[1]
        for _ in range(10):
            product0 = _U64(0xD2511F53) * _U64(c0)
            product1 = _U64(0xCD9E8D57) * _U64(c2)
            c0 = _U32(product1 >> _U64(32)) ^ c1 ^ k0
            c1 = _U32(product1)
            c2 = _U32(product0 >> _U64(32)) ^ c3 ^ k1
            c3 = _U32(product0)
            k0 = _U32(k0 + _U32(0x9E3779B9))
            k1 = _U32(k1 + _U32(0xBB67AE85))
        words[4 * i] = c0
        words[4 * i + 1] = c1
        words[4 * i + 2] = c2
        words[4 * i + 3] = c3


@_jit
def _lanes(memory, element, n, address):
    """Write the lanes of `n` elements; that of element i is ``_lanes_in(memory)[returned + i]``."""
    skip = element & 7
    _philox_words(memory, element >> 3, (skip + n + 7) >> 3, address)
    return skip


@_jit
def _values(memory, element, n, address):
    """Write z of `n` elements; that of element i is ``_z_in(memory)[returned + i]``."""
    if address[4] == _RADEMACHER:
        skip = element & 127
        count = (skip + n + 127) >> 7
        _philox_words(memory, element >> 7, count, address)
        z, octets = _z_in(memory), carray(_pointer(memory.words, np.uint8), (_WORD_BYTES,))
        for j in range(16 * count):
            first = _U64(octets[j]) * _U64(8)
            eight = z[8 * j : 8 * j + 8]
            for b in range(8):
                eight[b] = _SIGNS[_U64(first + _U64(b))]
        return skip
    skip = _lanes(memory, element, n, address)
    lanes, fours = _lanes_in(memory), carray(_pointer(memory.words, np.uint64), (_WORD_BYTES // 8,))
    bits = carray(_pointer(memory.z, np.uint32), (_VALUE_BYTES // 4,))
    table = carray(_pointer(memory.table, np.uint32), (TABLE_SIZE,))
    for i in range((skip + n + 3) >> 2):
        four = fours[i]
        bits[4 * i] = table[four & _INDEX_MASK]
        bits[4 * i + 1] = table[(four >> _U64(16)) & _INDEX_MASK]
        bits[4 * i + 2] = table[(four >> _U64(32)) & _INDEX_MASK]
        bits[4 * i + 3] = table[(four >> _U64(48)) & _INDEX_MASK]
    for i in range(skip + n):
        bits[i] = _U32(bits[i] | _U32(_U32(lanes[i] & _SIGN_BIT) << _U32(16)))
    return skip


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


def _typed_pointer(typing_context, address, dtype):
    """Turn an integer address into a pointer to `dtype`."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), build


_pointer: Any = intrinsic(_typed_pointer)  # called as (address, dtype)


def _fetch_line(typing_context, address, writes):
    """Ask for the cache line of an address, to be read (0) or written (1); any address may be given."""

    def build(context, builder, signature, arguments):
        place, flag = builder.inttoptr(arguments[0], cgutils.voidptr_t), cgutils.int32_t
        prefetch = ir.FunctionType(ir.VoidType(), [place.type, flag, flag, flag])
        function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], prefetch)
        near, data = 3, 1
        builder.call(function, [place, flag(signature.args[1].literal_value), flag(near), flag(data)])
        return context.get_dummy_value()

    return types.void(types.int64, writes), build


def _stack_memory(typing_context, num_bytes):
    """Return the address of memory that lives as long as the call it is asked for in."""

    def build(context, builder, signature, arguments):
        memory = cgutils.alloca_once(builder, ir.IntType(8), size=signature.args[0].literal_value)
        memory.align = _LINE
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(num_bytes), build


_stack: Any = intrinsic(prefer_literal=True)(_stack_memory)  # called as (literal)
_fetch: Any = intrinsic(prefer_literal=True)(_fetch_line)  # called as (address, literal)


@_jit
def _fetch_ahead(out, base, offset, n, itemsize):
    """Ask for the `n` elements that are `_AHEAD` of an offset, in tensors given by their addresses."""
    start, stop = (offset + _AHEAD) * itemsize, (offset + _AHEAD + n) * itemsize
    for place in range(start, stop, _LINE):
        _fetch(base + place, 0)
        _fetch(out + place, 1)


@_jit
def _address(integers, index):
    """Return address `index`: key low, key high, stream, purpose, law."""
    i = _HEADER + _WORDS_PER_ADDRESS * index
    key = _U32(integers[i]), _U32(integers[i + 1])
    return (*key, _U32(integers[i + 2]), _U32(integers[i + 3]), _U32(integers[i + 4]))


@_jit
def _unpacked(arguments):
    """Return pointers to the integers and to the floats behind them."""
    integers = _pointer(arguments, np.int64)
    return integers, _pointer(arguments + 8 * integers[10], np.float64)


@_jit
def _place(integers, position, stop):
    """Return the row, column, memory offset and element of a position, and the length of its tile."""
    num_rows, row_length = integers[0], integers[1]
    row_start, col_start, full_width = integers[2], integers[3], integers[4]
    row, column = position // row_length, position % row_length
    if integers[5]:
        row = carray(_pointer(integers[5], np.int64), (num_rows,))[row]
    n = min(_TILE, row_length - column, stop - position)
    element = (row_start + row) * full_width + col_start + column
    return row, column, row * row_length + column, element, n


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> CFunc:
    """Compile a kernel for tensors of this dtype, or load it from Numba's cache."""
    storage = _STORAGE[dtype]
    compute = np.float64 if storage is np.float64 else np.float32
    return cfunc(KERNEL_SIGNATURE, cache=True)(_ENTRIES[name](storage, compute))


# Entries close over types alone: Numba's cache knows a closure by its cells, and a kernel among them would
# never match.


def _fill_entry(storage: type[np.generic], compute: type[np.generic]) -> Callable[..., None]:
    def fill(arguments, start, stop):
        _fill(arguments, start, stop, storage)

    return fill


def _add_entry(storage: type[np.generic], compute: type[np.generic]) -> Callable[..., None]:
    def add(arguments, start, stop):
        _add(arguments, start, stop, storage, compute)

    return add


def _add_low_rank_entry(storage: type[np.generic], compute: type[np.generic]) -> Callable[..., None]:
    def add_low_rank(arguments, start, stop):
        _add_low_rank(arguments, start, stop, storage, compute)

    return add_low_rank


_ENTRIES = {"fill": _fill_entry, "add": _add_entry, "add_low_rank": _add_low_rank_entry}


@_jit
def _fill(arguments, start, stop, storage):
    """Asks for: pointer of out."""
    integers, _ = _unpacked(arguments)
    out = carray(_pointer(integers[integers[9]], storage), (integers[1],))
    is_float16, address = integers[6] != 0, _address(integers, 0)
    memory = _Memory(_stack(_WORD_BYTES), _stack(_VALUE_BYTES), integers[11])
    z = _z_in(memory)
    for element in range(start, stop, _TILE):
        n = min(_TILE, stop - element)
        skip = _values(memory, element, n, address)
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
    out = carray(_pointer(integers[specific], storage), (size,))
    base = carray(_pointer(integers[specific + 1], storage), (size,))
    dense = carray(_pointer(integers[specific + 2], compute), (size,))
    keeps, first_lane, behind_lane = integers[specific + 3], integers[specific + 4], integers[specific + 5]
    mirrored, mirrors = carray(_pointer(integers[specific + 6], storage), (size,)), integers[specific + 6] != 0
    scale, dense_coefficient = compute(floats[0]), compute(floats[1])
    limit = compute(floats[2 + num_terms]) if keeps == _KEEP_MAGNITUDES else compute(0)
    memory = _Memory(_stack(_WORD_BYTES), _stack(_VALUE_BYTES), integers[11])
    lanes, z = _lanes_in(memory), _z_in(memory)
    acc = carray(_pointer(_stack(_ACC_BYTES), compute), (_TILE,))
    before = carray(_pointer(_stack(_ACC_BYTES), compute), (_TILE,))
    opposite = carray(_pointer(_stack(_ACC_BYTES), compute), (_TILE,))
    first_term = 1 if rounds else 0
    position = start
    while position < stop:
        _, _, offset, element, n = _place(integers, position, stop)
        if position + _AHEAD < stop:
            _fetch_ahead(integers[specific], integers[specific + 1], offset, n, out.itemsize)
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
        for term in range(num_terms):
            skip = _values(memory, element, n, _address(integers, first_term + term))
            coefficient, values = compute(floats[2 + term]), z[skip : skip + n]
            if mirrors:
                for i in range(n):
                    change = coefficient * values[i]
                    acc[i] = acc[i] + change
                    opposite[i] = opposite[i] - change
            else:
                for i in range(n):
                    acc[i] = acc[i] + coefficient * values[i]
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
        skip = _lanes(memory, element, n, _address(integers, 0)) if rounds else 0
        _store(out[offset : offset + n], acc, n, lanes[skip:], is_float16)
        if mirrors:
            _store(mirrored[offset : offset + n], opposite, n, lanes[skip:], is_float16)
        position += n


@_jit
def _add_low_rank(arguments, start, stop, storage, compute):
    """Asks for: pointers of out, base, left (m, r), right (r, n), and r; floats are scale.

    Four ranks share a pass over the tile.
    """
    integers, floats = _unpacked(arguments)
    is_float16, rounds = integers[6] != 0, integers[8] != 0
    num_rows, row_length, specific = integers[0], integers[1], integers[9]
    rank = integers[specific + 4]
    out = carray(_pointer(integers[specific], storage), (num_rows * row_length,))
    base = carray(_pointer(integers[specific + 1], storage), (num_rows * row_length,))
    left = carray(_pointer(integers[specific + 2], compute), (num_rows, rank))
    right = carray(_pointer(integers[specific + 3], compute), (rank, row_length))
    scale = compute(floats[0])
    memory = _Memory(_stack(_WORD_BYTES), _stack(_VALUE_BYTES), integers[11])
    lanes = _lanes_in(memory)
    acc = carray(_pointer(_stack(_ACC_BYTES), compute), (_TILE,))
    position = start
    while position < stop:
        row, column, offset, element, n = _place(integers, position, stop)
        if position + _AHEAD < stop:
            _fetch_ahead(integers[specific], integers[specific + 1], offset, n, out.itemsize)
        _load(acc, base[offset : offset + n], n, is_float16)
        if scale != 1:
            for i in range(n):
                acc[i] = acc[i] * scale
        for j in range(0, rank - 3, 4):
            l0, l1, l2, l3 = left[row, j], left[row, j + 1], left[row, j + 2], left[row, j + 3]
            r0, r1 = right[j, column : column + n], right[j + 1, column : column + n]
            r2, r3 = right[j + 2, column : column + n], right[j + 3, column : column + n]
            for i in range(n):
                acc[i] = (((acc[i] + l0 * r0[i]) + l1 * r1[i]) + l2 * r2[i]) + l3 * r3[i]
        for j in range(rank - rank % 4, rank):
            factor, summand = left[row, j], right[j, column : column + n]
            for i in range(n):
                acc[i] = acc[i] + factor * summand[i]
        skip = _lanes(memory, element, n, _address(integers, 0)) if rounds else 0
        _store(out[offset : offset + n], acc, n, lanes[skip:], is_float16)
        position += n
