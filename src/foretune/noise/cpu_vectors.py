"""Vector code of the noise on CPU tensors, written instruction by instruction for Numba.

Of a loop Numba makes vector code only behind checks that its arrays do not overlap, which tells at tiles of a few
hundred elements; and no loop can look up the values of one block while it makes the words of another. What is here
works on a *block*, 64 elements, at addresses that are given as integers. The order and rounding of every operation are
those of `reference`; a processor without such vectors gets several narrower ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from foretune.noise.table import TABLE_SIZE

BLOCK = 64
"""Elements: eight lanes of each of eight counters."""
WORD_BYTES = 2 * BLOCK
"""Of a block: two a lane."""

_WIDTH = 8
_INT16, _INT32, _INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_SHORTS, _WORDS, _COUNTERS = (ir.VectorType(item, _WIDTH) for item in (_INT16, _INT32, _INT64))
_FLOATS = ir.VectorType(ir.FloatType(), _WIDTH)
_LOW_WORD = 0xFFFFFFFF


def _emit_philox(builder: Any, counter: Any, address: Any, words: Any) -> Iterator[None]:
    """Emit the Philox4x32-10 words of eight counters in a row, a round at a time.

    A number of 32 bits is the low half of one of 64, whose high half may hold anything: a product of two low halves is
    one instruction, and its own low half is the next round's number as it stands.
    """
    *keys, stream, purpose, _ = cgutils.unpack_tuple(builder, address)
    low, half = _all(_COUNTERS, _LOW_WORD), _all(_COUNTERS, 32)
    counters = builder.add(_splat(builder, counter), ir.Constant(_COUNTERS, list(range(_WIDTH))))
    c0, c1 = counters, builder.lshr(counters, half)
    c2, c3 = (_splat(builder, builder.zext(number, _INT64)) for number in (stream, purpose))
    for _ in range(10):
        product0 = builder.mul(builder.and_(c0, low), _all(_COUNTERS, 0xD2511F53))
        product1 = builder.mul(builder.and_(c2, low), _all(_COUNTERS, 0xCD9E8D57))
        k0, k1 = (_splat(builder, builder.zext(key, _INT64)) for key in keys)
        c0 = builder.xor(builder.xor(builder.lshr(product1, half), c1), k0)
        c2 = builder.xor(builder.xor(builder.lshr(product0, half), c3), k1)
        c1, c3 = product1, product0
        keys = [builder.add(key, _INT32(step)) for key, step in zip(keys, (0x9E3779B9, 0xBB67AE85), strict=True)]
        yield
    first = builder.or_(builder.and_(c0, low), builder.shl(c1, half))
    second = builder.or_(builder.and_(c2, low), builder.shl(c3, half))
    in_order = [place for index in range(_WIDTH) for place in (index, _WIDTH + index)]
    for part in range(2):
        places = ir.Constant(_WORDS, in_order[part * _WIDTH : (part + 1) * _WIDTH])
        mixed = builder.shuffle_vector(first, second, places)
        builder.store(mixed, _pointer(builder, words, part * WORD_BYTES // 2, _COUNTERS), align=WORD_BYTES // 2)
    yield


def _emit_look_up(builder: Any, words: Any, table: Any, z: Any) -> Iterator[None]:
    """Emit the gaussian values of a block whose words are there, eight at a time.

    Scalar loads, collected in a vector: the vector unit's gather is slower.
    """
    for eight in range(BLOCK // _WIDTH):
        bits = ir.Constant(_WORDS, ir.Undefined)
        for start in range(0, _WIDTH, 4):
            four = builder.load(_pointer(builder, words, 2 * (_WIDTH * eight + start), _INT64), align=8)
            for lane in range(4):
                index = builder.and_(builder.lshr(four, _INT64(16 * lane)), _INT64(TABLE_SIZE - 1))
                entry = builder.add(table, builder.shl(index, _INT64(2)))
                value = builder.load(_pointer(builder, entry, 0, _INT32), align=4)
                bits = builder.insert_element(bits, value, _INT32(start + lane))
        lanes = builder.load(_pointer(builder, words, 2 * _WIDTH * eight, _SHORTS), align=2 * _WIDTH)
        signs = builder.shl(builder.zext(lanes, _WORDS), _all(_WORDS, 16))
        bits = builder.or_(bits, builder.and_(signs, _all(_WORDS, 1 << 31)))
        builder.store(bits, _pointer(builder, z, 4 * _WIDTH * eight, _WORDS), align=4)
        yield


def _emit_multiple(builder: Any, z: Any, coefficient: Any, sums: Sequence[tuple[Any, Any, str]]) -> None:
    """Emit ``out = base + coefficient * z``, or minus, of a block for each (base, out, operation), in its precision."""
    numbers = ir.VectorType(coefficient.type, _WIDTH)
    item_bytes = 4 if numbers == _FLOATS else 8
    factor = _splat(builder, coefficient)
    for start in range(0, BLOCK, _WIDTH):
        values = builder.load(_pointer(builder, z, 4 * start, _FLOATS), align=4)
        change = builder.fmul(factor, values if numbers == _FLOATS else builder.fpext(values, numbers))
        loaded = [
            builder.load(_pointer(builder, base, item_bytes * start, numbers), align=item_bytes) for base, _, _ in sums
        ]
        for number, (_, out, operation) in zip(loaded, sums, strict=True):
            changed = getattr(builder, operation)(number, change)
            builder.store(changed, _pointer(builder, out, item_bytes * start, numbers), align=item_bytes)


def _emit_products(builder: Any, left: Any, right: Any, stride: Any, rank: Any, base: Any, out: Any, item: Any) -> None:
    """Emit ``out[i] = base[i] + sum_j left[j] * right[j * stride + i]`` of a block, whose sums stay in registers."""
    numbers = ir.VectorType(item, _WIDTH)
    item_bytes = 4 if numbers == _FLOATS else 8
    places = range(0, item_bytes * BLOCK, item_bytes * _WIDTH)
    sums = [cgutils.alloca_once(builder, numbers) for _ in places]
    for place, kept in zip(places, sums, strict=True):
        builder.store(builder.load(_pointer(builder, base, place, numbers), align=item_bytes), kept)
    with cgutils.for_range(builder, rank) as loop:
        factor = _splat(builder, builder.load(_element(builder, left, loop.index, item_bytes, item)))
        row = builder.add(right, builder.mul(loop.index, builder.mul(stride, _INT64(item_bytes))))
        for place, kept in zip(places, sums, strict=True):
            summand = builder.load(_pointer(builder, row, place, numbers), align=item_bytes)
            builder.store(builder.fadd(builder.load(kept), builder.fmul(factor, summand)), kept)
    for place, kept in zip(places, sums, strict=True):
        builder.store(builder.load(kept), _pointer(builder, out, place, numbers), align=item_bytes)


def _all(vector: ir.VectorType, value: int) -> ir.Constant:
    return ir.Constant(vector, [value] * _WIDTH)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, _WIDTH), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _INT32(0)), undefined, _all(_WORDS, 0))


def _pointer(builder: Any, address: Any, offset: int, item: Any) -> Any:
    return builder.inttoptr(builder.add(address, _INT64(offset)), item.as_pointer())


def _element(builder: Any, address: Any, index: Any, item_bytes: int, item: Any) -> Any:
    return _pointer(builder, builder.add(address, builder.mul(index, _INT64(item_bytes))), 0, item)


def _signature(*arguments: Any) -> Any:
    return types.void(*(types.int64 if argument is int else argument for argument in arguments))


# What kernels call. Addresses and counters are int64; `address` is that of the noise, five uint32.


def _philox_block(typing_context, counter, address, words):
    """Write the words of counters `counter` to `counter` + 7 to 128 aligned bytes."""

    def build(context, builder, signature, arguments):
        for _ in _emit_philox(builder, *arguments):
            pass
        return context.get_dummy_value()

    return _signature(int, address, int), build


def _look_up_block(typing_context, words, table, z):
    """Write the gaussian values of a block to `z`, float32."""

    def build(context, builder, signature, arguments):
        for _ in _emit_look_up(builder, *arguments):
            pass
        return context.get_dummy_value()

    return _signature(int, int, int), build


def _philox_and_look_up_block(typing_context, counter, address, words, earlier_words, table, z):
    """Write the words of one block, and the values of an earlier one meanwhile: neither waits for the other."""

    def build(context, builder, signature, arguments):
        for _ in zip_longest(_emit_philox(builder, *arguments[:3]), _emit_look_up(builder, *arguments[3:])):
            pass
        return context.get_dummy_value()

    return _signature(int, address, int, int, int, int), build


def _add_multiple_block(typing_context, z, coefficient, base, out):
    """Write ``base + coefficient * z`` to `out`, all of the coefficient's precision but `z`."""

    def build(context, builder, signature, arguments):
        z, coefficient, base, out = arguments
        _emit_multiple(builder, z, coefficient, [(base, out, "fadd")])
        return context.get_dummy_value()

    return _signature(int, coefficient, int, int), build


def _add_opposite_multiples_block(typing_context, z, coefficient, base, out, opposite_base, opposite):
    """Write ``opposite_base - coefficient * z`` to `opposite` as well."""

    def build(context, builder, signature, arguments):
        z, coefficient, base, out, opposite_base, opposite = arguments
        _emit_multiple(builder, z, coefficient, [(base, out, "fadd"), (opposite_base, opposite, "fsub")])
        return context.get_dummy_value()

    return _signature(int, coefficient, int, int, int, int), build


def _add_products_block(typing_context, left, right, stride, rank, base, out, dtype):
    """Write ``base + sum_j left[j] * right[j * stride + i]`` to `out`, element i of the block, all of this dtype."""

    def build(context, builder, signature, arguments):
        *numbers, _ = arguments
        _emit_products(builder, *numbers, item=context.get_value_type(dtype.dtype))
        return context.get_dummy_value()

    return _signature(*[int] * 6, dtype), build


philox_block: Any = intrinsic(_philox_block)
look_up_block: Any = intrinsic(_look_up_block)
philox_and_look_up_block: Any = intrinsic(_philox_and_look_up_block)
add_multiple_block: Any = intrinsic(_add_multiple_block)
add_opposite_multiples_block: Any = intrinsic(_add_opposite_multiples_block)
add_products_block: Any = intrinsic(_add_products_block)
