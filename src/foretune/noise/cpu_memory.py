"""Memory in the kernels of the noise on CPU tensors: addresses as pointers, the stack, and the cache."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64
"""Bytes that the cache takes at a time."""


def _typed_pointer(typing_context, address, dtype):
    """Turn an integer address into a pointer to `dtype`."""

    def build(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), build


def _stack_memory(typing_context, num_bytes):
    """Return the address of memory that lives as long as the call it is asked for in."""

    def build(context, builder, signature, arguments):
        memory = cgutils.alloca_once(builder, ir.IntType(8), size=signature.args[0].literal_value)
        memory.align = LINE
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.int64(num_bytes), build


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


pointer: Any = intrinsic(_typed_pointer)  # called as (address, dtype)
stack: Any = intrinsic(prefer_literal=True)(_stack_memory)  # called as (literal)
fetch: Any = intrinsic(prefer_literal=True)(_fetch_line)  # called as (address, literal)
