import math

import pytest
import torch
from torch import nn

from foretune.errors import ForetuneError
from foretune.methods import make_method
from foretune.parameters import collect_trainables
from foretune.runs.kept_weights import kept_weights
from foretune.runs.lr_trials import LrTrials
from sampled import linear_model, sampled_loss
from toys import differing_bits, weights_of


def arguments_of(method):
    return lambda lr: make_method(method, {"lr": lr}).optimizer_arguments()


@pytest.fixture
def model():
    return linear_model()


@pytest.fixture
def trials(model):
    with kept_weights(collect_trainables(model)) as kept:
        yield LrTrials(model, arguments_of("mezo"), sampled_loss(model), kept, engine="auto", seed=0)


def test_a_trial_lowers_the_loss_and_leaves_no_trace(model, trials):
    before, state = weights_of(model), torch.random.get_rng_state()
    trial = trials.run(0.02, 60)
    assert (trial.lr, trial.steps, trial.num_batches) == (0.02, 60, 12)
    assert -trials.start_loss < trial.change < -0.3 * trials.start_loss
    assert trial.spread > 0
    assert differing_bits(weights_of(model), before) == []
    assert torch.equal(torch.random.get_rng_state(), state)
    assert trials.made == [trial]


def test_the_same_seed_repeats_a_trial_and_each_trial_has_its_own(model):
    def changes():
        with kept_weights(collect_trainables(model)) as kept:
            trials = LrTrials(model, arguments_of("mezo"), sampled_loss(model), kept, engine="auto", seed=0)
            return [trials.run(0.02, 10).change for _ in range(2)]

    first = changes()
    assert changes() == first
    assert first[0] != first[1]


@pytest.mark.parametrize("start", [1e-5, 1e-2, 1e3])
def test_the_rate_that_breaks_the_loss_is_found_from_either_side(trials, start):
    breaking = trials.search(start)
    assert breaking in (pytest.approx(0.1), pytest.approx(1.0))
    changes = {trial.lr: trial.change for trial in trials.made}
    assert changes[breaking] > trials.limit
    assert changes[min(changes, key=lambda lr: abs(math.log(lr / breaking * 10)))] <= trials.limit


def test_a_loss_that_is_not_finite_is_an_infinite_change_and_no_warning(model, trials, caplog):
    before = weights_of(model)
    assert trials.run(1e30, 30).change == math.inf
    assert caplog.records == []
    assert differing_bits(weights_of(model), before) == []


def test_the_grid_lies_below_what_breaks(trials):
    trials.make_grid(1.0, 2)
    assert [trial.lr for trial in trials.made] == pytest.approx([10**-0.5, 0.1, 10**-1.5, 0.01])
    assert {trial.steps for trial in trials.made} == {2}


def test_a_loss_that_nothing_changes_is_named():
    class Constant(nn.Linear):
        def forward(self, inputs):
            return 0 * super().forward(inputs)

    model = Constant(4, 2)
    with kept_weights(collect_trainables(model)) as kept:
        trials = LrTrials(model, arguments_of("mezo"), sampled_loss(model), kept, engine="auto", seed=0)
        with pytest.raises(ForetuneError, match=r"No learning rate up to 1e\+06 raises the loss by"):
            trials.search(1e-6)


def test_seconds_a_step_count_the_forwards_of_the_run(model):
    """The ramp has one direction at first and four from step 100 on: steps of a long run take four times as long."""
    method = {"num_directions": 4, "ramp_steps": 100}
    with kept_weights(collect_trainables(model)) as kept:
        trials = LrTrials(
            model,
            lambda lr: make_method("mezo", {"lr": lr, **method}).optimizer_arguments(),
            sampled_loss(model),
            kept,
            engine="auto",
            seed=0,
        )
        trials.run(1e-3, 5)
    assert trials.seconds_per_step(100_000) == pytest.approx(4 * trials.seconds_per_step(20), rel=0.02)
    assert trials.engine == "layerwise"
