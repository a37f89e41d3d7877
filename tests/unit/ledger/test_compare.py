"""Groups over seeds, their spread, and where settings differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from foretune.ledger.compare import ABSENT, Spread, differences, group


def test_runs_that_differ_in_seeds_only_are_one_group(make_run):
    runs = [make_run(seed=seed, accuracy=accuracy) for seed, accuracy in ((0, 0.5), (1, 0.7), (2, 0.9))]
    runs.insert(1, make_run(lr=1e-5))
    runs.append(replace(make_run(seed=3), status="failed", metrics={}))
    first, second = group(runs)
    assert [run.seed for run in first.runs] == [0, 1, 2, 3]
    assert second.runs == (runs[1],)
    assert first.states == {"finished": 3, "failed": 1}
    assert first.seeds == ((0, 0), (1, 0), (2, 0), (3, 0))
    accuracy = first.metrics()["final.accuracy"]
    assert (accuracy.mean, accuracy.deviation, accuracy.count) == (pytest.approx(0.7), pytest.approx(0.2), 3)


def test_a_single_value_has_no_spread():
    spread = Spread.of([0.5])
    assert spread.mean == 0.5
    assert math.isnan(spread.deviation)


def test_costs_are_of_the_runs_that_know_them(make_run):
    (found,) = group([make_run(seconds=1.0, forward_passes=200), make_run(seed=1)])
    assert found.costs()["forward_passes"].count == 1
    assert list(found.costs()) == ["forward_passes", "seconds"]


def test_differences_name_settings_by_dots(make_run):
    lozo = make_run("lozo")
    lozo.config["method"]["rank"] = 2
    groups = group([make_run(), make_run(lr=1e-5), lozo])
    assert differences(groups) == {
        "method.name": ["mezo", "mezo", "lozo"],
        "method.lr": [1e-6, 1e-5, 1e-6],
        "method.rank": [ABSENT, ABSENT, 2],
    }
    assert differences(groups[:1]) == {}


def test_imported_runs_are_grouped_by_their_settings_if_these_are_known(make_run):
    unknown = [make_run(source="tensorboard", config={}) for _ in range(2)]
    known = [make_run(source="wandb_run", seed=seed) for seed in (0, 1)]
    assert [len(found.runs) for found in group([*unknown, *known, make_run()])] == [1, 1, 2, 1]
