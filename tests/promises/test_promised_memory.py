"""What a step holds at once, beside weights and declared state: a few layers, never the whole model again."""

import pytest
import torch

from foretune.methods import AbstractMethod
from live_bytes import LiveBytes
from promised import build
from toys import Toys

MAX_LAYERS = 6
"""Perturbed copy, a rule's own temporaries and those of torch's operators: a quarter of the model here."""


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
def test_a_step_needs_a_few_layers_of_memory(recipe: type[AbstractMethod], toys: Toys, num_directions: int) -> None:
    """Peak of live bytes in two steps, less the state that is kept: independent of depth and of the directions."""
    options = {} if num_directions == 1 else {"num_directions": num_directions}
    if options and not hasattr(recipe, "num_directions"):
        pytest.skip("it has no such setting")
    model = toys.deep()
    optimizer = build(recipe, model, engine="layerwise", **options)
    optimizer.step(model)
    with LiveBytes() as counter:
        optimizer.step(model)
        optimizer.step(model)
    assert counter.peak <= MAX_LAYERS * model.layer_bytes < model.num_layers * model.layer_bytes / 2
