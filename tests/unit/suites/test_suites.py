"""Every suite is read, its trials are counted by hand, and each of its values is one that `foretune train` takes."""

import itertools
import math

import pytest

from foretune.cli.train import parse
from foretune.methods import RECIPES
from foretune.sweeps.file import describe_suite, load_sweep, override, suite_names
from foretune.sweeps.parameters import Values
from foretune.sweeps.plan import resolve

# ZO-LLM: adam, sgd, forward_grad, sign, zo_adam, zo_sgd, conservative, momentum
COPA_1 = [48, 55, 61, 150, 150, 157, 150, 132]
COPA_2 = [40, 40, 40, 114, 114, 114, 114, 108]
WINOGRANDE = [100, 100, 101, 285, 285, 288, 285, 270]
SST2 = [19, 15, 18, 27, 57, 42, 48, 39]

NUM_TRIALS = {
    "zo_llm": sum(COPA_1 + COPA_2 + WINOGRANDE + SST2),
    # masks; template v1 on both tasks; Adam; schedules; several directions
    "zo_llm_ablations": 9 * 8 + (15 + 5) + (15 + 5 + 1) + 3 * 7 + 3 * (4 + 3 + 3) + 2 * 4 * 6,
    # nine tasks with two rates in three schemes, two with three; ten few-shot draws and sizes of six tasks
    "mezo": 9 * 3 * 2 + 2 * 3 * 3 + 6 * 2 * 5 * (3 + 3 + 3 + 5),
    "lozo": 11 * 2 * (4 + 1) + 6 * 2 * 5 * 2 * 2,
    "subzero": 1 + 3 + 1 + 1 + 1 + 9 + 9,
    "zobcd": 6 * 6 * (1 + 4 + 12 + 4) + 6 * (1 + 1 + 3) + 5 * 2,
    "first_order": 11 * 3 + 6 * 5 * (9 + 9 + 15 + 15 + 18 + 18),
    # 31 lines of SST-2 and 24 of SST-5, before further seeds
    "mini": 3 * (31 + 24),
}
STRUCTURE = ("method", "tuning", "task", "update", "schedule", "space")


def sweep(name):
    found = load_sweep(name)
    return override(found, {"model": Values(("m",))}) if name == "mini" else found


def test_every_suite_is_counted():
    assert suite_names() == sorted(NUM_TRIALS)
    assert all(describe_suite(name) for name in suite_names())


@pytest.mark.parametrize("name", sorted(NUM_TRIALS))
def test_the_trials_of_a_suite_are_as_many_as_by_hand(name):
    combinations = [
        tuple(sorted(zip(grid.parameters, map(repr, values), strict=True)))
        for grid in sweep(name).grids
        for values in itertools.product(*(parameter.values for parameter in grid.parameters.values()))
    ]
    assert len(combinations) == NUM_TRIALS[name]
    assert len(set(combinations)) == NUM_TRIALS[name]  # none is there twice


@pytest.mark.parametrize("name", sorted(NUM_TRIALS))
def test_every_value_of_a_suite_is_taken_by_train(name):
    """Methods, schemes and tasks in all combinations; other values once each at least."""
    for grid in sweep(name).grids:
        values = {key: parameter.values for key, parameter in grid.parameters.items()}
        structure = [key for key in values if key in STRUCTURE and key != "task"]
        longest = max(len(entry) for entry in values.values())
        products = list(itertools.product(*(values[key] for key in structure)))
        for index, chosen in zip(range(max(longest, len(products))), itertools.cycle(products), strict=False):
            options = {key: entry[index % len(entry)] for key, entry in values.items()}
            trial = resolve({**options, **dict(zip(structure, chosen, strict=True))}, grid, parse)
            if grid.forward_passes is not None:
                assert trial.forward_passes == pytest.approx(grid.forward_passes, rel=0.05)


def test_mini_has_every_method_on_both_tasks():
    pairs = {(*grid.parameters["task"].values, *grid.parameters["method"].values) for grid in sweep("mini").grids}
    assert pairs == set(itertools.product(["sst2", "sst5"], RECIPES))


def test_rates_of_mini_are_a_factor_of_four_apart():
    for grid in sweep("mini").grids:
        low, centre, high = grid.parameters["lr"].values
        assert math.isclose(centre / low, 4)
        assert math.isclose(high / centre, 4)
