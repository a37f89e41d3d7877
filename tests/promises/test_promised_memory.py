"""What a step holds at once, beside weights and declared state: a few layers, never the whole model again."""

import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foretune.methods import AbstractMethod
from promised import build
from toys import LoRALinear

WIDTH, NUM_LAYERS = 48, 24
LAYER_BYTES = 4 * WIDTH * WIDTH
MAX_LAYERS = 6
"""Perturbed copy, a rule's own temporaries and those of torch's operators: a quarter of the model here."""


class Deep(nn.Module):
    """Many equal layers, and a loss on one row: activations are small.

    Args:
        adapted: Whether the trainable tensors are LoRA factors, here of full rank.
    """

    def __init__(self, adapted: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        make = partial(LoRALinear, rank=WIDTH) if adapted else nn.Linear
        self.layers = nn.ModuleList(make(WIDTH, WIDTH) for _ in range(NUM_LAYERS))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / WIDTH**0.5)
        self.register_buffer("inputs", torch.randn(1, WIDTH, generator=generator))

    def forward(self) -> Tensor:
        """The loss."""
        x = self.inputs
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.square().mean()


def _storages(values: object) -> list[torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [tensor.untyped_storage() for tensor in tensors if not tensor._is_zerotensor()]  # which hold no memory


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage.data_ptr() not in given | self._known:
                address, size = storage.data_ptr(), storage.nbytes()
                self._known.add(address)
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, address, size)
        return result

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def test_live_bytes_are_counted() -> None:
    with LiveBytes() as counter:
        a = torch.ones(1000)
        b = a + 1
        del a
        c = b.view(10, 100)
    assert counter.peak == 8000
    assert counter.live == 4000
    del b, c
    assert counter.live == 0


@pytest.mark.parametrize("num_directions", [1, 3])
def test_a_step_needs_a_few_layers_of_memory(recipe: type[AbstractMethod], num_directions: int) -> None:
    """Peak of live bytes in two steps, less the state that is kept: independent of depth and of the directions."""
    options = {} if num_directions == 1 else {"num_directions": num_directions}
    if options and not hasattr(recipe, "num_directions"):
        pytest.skip("it has no such setting")
    model = Deep(adapted=recipe.schemes[0] == "lora")
    optimizer = build(recipe, model, engine="layerwise", **options)
    optimizer.step(model)
    with LiveBytes() as counter:
        optimizer.step(model)
        optimizer.step(model)
    assert counter.peak <= MAX_LAYERS * LAYER_BYTES < NUM_LAYERS * LAYER_BYTES / 2
