"""What a step makes for a moment, scaled up from small matrices, against a step on the matrix itself."""

import pytest
import torch
from torch import nn

from foretune.methods import make_method
from foretune.optimizer import Optimizer
from foretune.runs.live_memory import LiveMemory
from foretune.runs.step_temporaries import step_temporaries


@pytest.mark.parametrize("method", ["mezo", "zo_adam", "zo_adamu", "zo_muon", "hizoo", "eggroll", "subzero"])
def test_bytes_are_those_of_a_real_step(method):
    shape = 3000, 400
    model = nn.Linear(shape[1], shape[0], bias=False)
    recipe = make_method(method, {}, total_steps=100)
    optimizer = Optimizer(model, **recipe.optimizer_arguments(), engine="layerwise")
    inputs = torch.ones(1, shape[1])
    for _ in range(2):
        optimizer.step(lambda: model(inputs).sum())
    kept = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    kept += [model.weight, *optimizer.engine.scratch_buffers]
    with LiveMemory(kept) as measuring:
        optimizer.estimate(lambda: model(inputs).sum())
    with LiveMemory(kept) as updating:
        optimizer.step()
    found = step_temporaries(recipe, torch.float32, shape)
    tolerance = 0.02 * model.weight.nbytes
    assert found == pytest.approx((measuring.peak_bytes, updating.peak_bytes), rel=0.05, abs=tolerance)
