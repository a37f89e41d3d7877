"""Scratch memory: a stack of one buffer, as large as all that was ever out at once."""

from __future__ import annotations

import pytest
import torch

from foretune.engine.scratch import ScratchStack

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5), (2, 3, 4)], ids=str)
def test_tensors_look_like_what_they_stand_for(dtype, shape) -> None:
    scratch, like = ScratchStack(), torch.zeros(shape, dtype=dtype)
    out = scratch.push(like)
    assert (out.shape, out.dtype, out.device) == (like.shape, like.dtype, like.device)
    assert out.is_contiguous()


def test_a_transposed_tensor_gets_contiguous_scratch() -> None:
    assert ScratchStack().push(torch.zeros(3, 4).t()).stride() == (3, 1)


def test_what_is_out_never_overlaps() -> None:
    scratch = ScratchStack()
    sizes = [5, 1, 33, 2, 8]
    for _ in range(3):  # growing at first, then within one buffer
        out = [scratch.push(torch.empty(size)) for size in sizes]
        for number, tensor in enumerate(out):
            tensor.fill_(number)
            assert tensor.data_ptr() % 64 == 0
        assert [tensor.unique().tolist() for tensor in out] == [[number] for number in range(len(sizes))]
        for _ in sizes:
            scratch.pop(CPU)


def test_memory_is_the_largest_that_was_out_at_once() -> None:
    scratch = ScratchStack()
    layers = [[100], [16, 1000], [1000, 16], [3000], [16, 16, 16]]
    for _ in range(3):
        for layer in layers:
            for size in layer:
                scratch.push(torch.empty(size))
            for _ in layer:
                scratch.pop(CPU)
    assert scratch.num_bytes == 4 * 3008  # in units of a cache line
    pointers = set()
    for layer in layers:
        pointers.add(scratch.push(torch.empty(layer[0])).data_ptr())
        scratch.pop(CPU)
    assert len(pointers) == 1  # the next layer writes where the last one did


def test_clear_takes_back_everything() -> None:
    scratch = ScratchStack()
    for _ in range(4):
        scratch.push(torch.empty(64))
    scratch.clear()
    scratch.push(torch.empty(64))
    scratch.clear()
    assert scratch.num_bytes == 4 * 64 * 4


def test_memory_from_an_evaluation_in_inference_mode_serves_others() -> None:
    scratch = ScratchStack()
    with torch.inference_mode():
        scratch.push(torch.empty(10))
        scratch.pop(CPU)
    out = scratch.push(torch.empty(10))
    assert not out.is_inference()
    out.fill_(1.0)
