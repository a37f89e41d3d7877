import math

import pytest

from foretune.errors import UsageError
from foretune.ledger import Run
from foretune.sweeps.selection import best_settings, select_runs

COUNTER = iter(range(10_000))


def run(lr, *, seed=0, dev=1.0, test=0.5, method="mezo", passes=(100, 0), **changes):
    kept = {
        "id": str(next(COUNTER)),
        "name": "n",
        "status": "finished",
        "method": method,
        "task": "sst2",
        "tuning": "full",
        "model": "m",
        "seed": seed,
        "train_set_seed": 0,
        "config": {"method": {"name": method, "lr": lr}, "seed": seed, "output": f"o{seed}"},
        "metrics": {"dev.loss": dev, "final.accuracy": test},
        "forward_passes": passes[0],
        "backward_passes": passes[1],
    }
    return Run(**{**kept, **changes})


@pytest.mark.parametrize(
    ("values", "goal", "best"),
    [
        ({"a": {0: 2.0}, "b": {0: 1.0}}, "minimize", "b"),
        ({"a": {0: 2.0}, "b": {0: 1.0}}, "maximize", "a"),
        # b was run with more seeds: only those that both have count
        ({"a": {0: 1.0}, "b": {0: 1.1, 1: 0.1, 2: 0.1}}, "minimize", "a"),
        # a failed with a seed that counts
        ({"a": {0: 0.1, 1: None}, "b": {0: 1.0, 1: 1.0}}, "minimize", "b"),
        ({"a": {0: math.nan}, "b": {0: 1.0}}, "minimize", "b"),
        ({"a": {0: 1.0}, "b": {0: 1.0}}, "minimize", "a"),
        ({"a": {0: None}}, "minimize", None),
        ({}, "minimize", None),
    ],
)
def test_settings_are_chosen_by_the_mean_over_shared_seeds(values, goal, best):
    assert best_settings(values, goal) == best


def test_test_figures_are_those_of_the_settings_that_dev_rows_choose():
    runs = [
        run(1e-3, dev=0.9, test=0.9),  # the best on test rows is not looked at
        run(1e-4, dev=0.6, test=0.5),
        run(1e-4, seed=1, dev=0.7, test=0.6),
        run(1e-4, seed=2, dev=0.8, test=0.7),
        run(1e-2, status="diverged", metrics={}),
    ]
    (chosen,) = select_runs(runs)
    assert chosen.settings == {"method.lr": 1e-4}
    assert [r.seed for r in chosen.runs] == [0, 1, 2]
    assert chosen.test["accuracy"].mean == pytest.approx(0.6)
    assert chosen.test["accuracy"].deviation == pytest.approx(0.1)
    assert (chosen.num_settings, chosen.num_trials, chosen.num_failed) == (3, 5, 1)
    assert chosen.forward_passes == 100
    assert chosen.problems == ()


def problems(*runs, **options):
    return [list(selection.problems) for selection in select_runs(runs, **options)]


def test_what_is_in_the_way_of_a_comparison_is_named():
    two = {"seed": 1}
    assert problems(run(1), run(1, **two)) == [[]]
    assert problems(run(1)) == [["One seed: there is no spread."]]
    assert problems(run(1, status="failed", metrics={})) == [["Nothing can be chosen: no run finished."]]
    without = run(1, metrics={"final.accuracy": 0.5})
    assert problems(without) == [["Nothing can be chosen: 1 finished runs have no dev.loss."]]
    same = {"dev.loss": 1.0, "overlap.dev_test": 1.0}
    (found,) = problems(run(1, metrics=same), run(1, metrics=same, **two))
    assert found == ["Dev and test rows are the same: the figure is of rows that the settings were chosen on."]
    some = {"dev.loss": 1.0, "overlap.dev_test": 0.04}
    (found,) = problems(run(1, metrics=some), run(1, metrics=some, **two))
    assert found == ["4 % of the dev rows are test rows as well."]
    (found,) = problems(run(1), run(1, status="failed", metrics={}, **two), run(2, dev=5.0))
    assert found == [
        "1 of 2 runs with the chosen settings did not finish, and are not in the mean.",
        "One seed: there is no spread.",
    ]
    (found,) = problems(run(1), run(1, **two), run(2, dev=9.0, passes=(200, 0)))
    assert found == ["Settings had different budgets: 100 to 200 forward passes."]
    (found,) = problems(run(1, data_hash="a"), run(1, data_hash="a", **two), run(2, dev=9.0, data_hash="b"))
    assert found == ["Settings were tried on different training or dev rows."]
    (found,) = problems(run(1), run(1), run(1, **two))
    assert found == ["1 runs repeat settings and seed of another; one of each counts."]


def test_a_backward_pass_counts_as_two_and_other_budgets_are_flagged():
    pairs = [(run(1, method=name, passes=passes), run(1, seed=1, method=name, passes=passes)) for name, passes in [
        ("mezo", (400, 0)), ("adam", (133, 133)), ("es", (390, 0)), ("lozo", (800, 0)),
    ]]  # fmt: skip
    found = {
        selection.method: list(selection.problems) for selection in select_runs([r for pair in pairs for r in pair])
    }
    assert found.pop("lozo") == ["Its budget was 800 forward passes, that of most others 400."]
    assert set(map(tuple, found.values())) == {()}  # 399 and 390: steps are whole


def test_lines_are_made_apart_by_replaced_parts_and_named_settings():
    adam = run(1, config={"method": {"name": "mezo", "lr": 1, "update": {"name": "adam"}}})
    assert [selection.method for selection in select_runs([run(1), adam])] == ["mezo", "mezo, update adam"]
    lines = select_runs([run(1), run(2)], apart=["method.lr"])
    assert [line.variant for line in lines] == [{"method.lr": 1}, {"method.lr": 2}]


def test_nothing_is_chosen_on_test_rows():
    with pytest.raises(UsageError, match=r"Settings are chosen on dev rows: final\.accuracy is none of dev.loss"):
        select_runs([run(1)], metric="final.accuracy", goal="maximize")
