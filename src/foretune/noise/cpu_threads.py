"""Shares the elements of a kernel among PyTorch's own threads.

A pool of another kind would have to fight for the cores with PyTorch's threads, which keep spinning for some
milliseconds after each matrix product. Even two OpenMP libraries of one kind are two pools: Numba's loops use the
system's, PyTorch brings its own. So the loop here is started by the OpenMP library that PyTorch has loaded, if that
speaks GCC's interface; else by threads of Python's.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

KERNEL_SIGNATURE = types.void(types.int64, types.int64, types.int64)
"""Of a kernel: the address of its arguments, and the first element of a piece and the one behind its last."""

_PIECE = 1 << 15
"""Elements a thread takes at a time, 20 to 30 us of work."""
_SERIAL = 1 << 17
"""Up to so many elements are not worth waking a thread for."""
_KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
_LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False


def run_kernel(kernel: int, arguments: bytes, num_elements: int) -> None:
    """Let a kernel work on elements 0 to `num_elements` - 1, in any order, on at most PyTorch's number of threads.

    Args:
        kernel: Address of a C function of `KERNEL_SIGNATURE`, which may be called by several threads at a time.
        arguments: What it finds at the address that it is given.
        num_elements: How many there are.
    """
    num_threads = torch.get_num_threads()
    if num_elements <= _SERIAL or num_threads == 1 or _forked:
        _called(kernel)(arguments, 0, num_elements)
        return
    held = array("B", arguments)
    # of the loop: what to call, with what, up to where, and the next element that nobody has taken
    task = array("q", [kernel, held.buffer_info()[0], num_elements, 0])
    _parallel()(task.buffer_info()[0], num_threads)


@functools.cache
def _called(kernel: int) -> Callable[[bytes, int, int], None]:
    return _KERNEL(kernel)


@functools.cache
def _parallel() -> Callable[[int, int], None]:
    """Return what runs the loop over a task on a number of threads, and waits for them."""
    loop: Any = _take_pieces.address
    try:
        start = _torch_library().GOMP_parallel
    except (OSError, AttributeError) as error:
        logger.info("Noise is made on Python's threads, which may be slower: PyTorch has no GNU OpenMP (%s).", error)
        return functools.partial(_run_on_python_threads, _LOOP(loop))
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return lambda task, num_threads: start(loop, task, num_threads, 0)


def _torch_library() -> ctypes.CDLL:
    """Return the library through which PyTorch's OpenMP is found, which is loaded already.

    Raises:
        OSError: this system has it under another name.
    """
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def _run_on_python_threads(loop: Callable[[int], None], task: int, num_threads: int) -> None:
    others = [_executor().submit(loop, task) for _ in range(num_threads - 1)]
    try:
        loop(task)
    finally:  # also where Ctrl-C ends the loop: the others still read the task
        wait(others)


@functools.cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="foretune-noise")


def _note_fork() -> None:
    global _forked
    _forked = True  # no thread follows into a forked child, and starting OpenMP's there ends it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _add_atomically(typing_context, address, amount):
    """Add to the integer at an address, and return what was there before."""

    def build(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "monotonic")

    return types.int64(types.int64, types.int64), build


def _call_kernel(typing_context, kernel, arguments, start, stop):
    """Call the kernel at an address."""

    def build(context, builder, signature, words):
        integer = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [integer, integer, integer])
        builder.call(builder.inttoptr(words[0], function.as_pointer()), words[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), build


def _load_integer(typing_context, address):
    """Return the integer at an address."""

    def build(context, builder, signature, words):
        return builder.load(builder.inttoptr(words[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), build


_add_to: Any = intrinsic(_add_atomically)  # called as (address, amount)
_integer_at: Any = intrinsic(_load_integer)  # called as (address)
_call: Any = intrinsic(_call_kernel)  # called as (kernel, arguments, start, stop)


@cfunc(types.void(types.int64), cache=True)
def _take_pieces(task):
    """Work on one piece after the other until none is left; every thread of the loop does this."""
    kernel, arguments, num_elements = _integer_at(task), _integer_at(task + 8), _integer_at(task + 16)
    start = _add_to(task + 24, _PIECE)
    while start < num_elements:
        _call(kernel, arguments, start, min(start + _PIECE, num_elements))
        start = _add_to(task + 24, _PIECE)
