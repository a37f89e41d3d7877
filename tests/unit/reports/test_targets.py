"""The cost to reach a dev figure: at the first evaluation that does."""

from __future__ import annotations

import pytest

from foretune.ledger import Point
from foretune.reports.choices import choose
from foretune.reports.targets import costs_to_target


def _points(accuracies, passes=100.0):
    return [
        Point(step, {"eval_accuracy": accuracy, "forward_passes": passes * step, "seconds": float(step)})
        for step, accuracy in enumerate(accuracies, start=1)
    ]


def _costs(read_back, runs, points, targets=()):
    logs = read_back(runs, points)
    return costs_to_target(choose(logs.runs), logs, targets)


def test_the_first_evaluation_that_reaches_it_counts(make_run, read_back):
    (reach,) = _costs(read_back, [make_run()], [_points([0.5, 0.7, 0.6, 0.8])], [0.65])
    assert (reach.num_reached, reach.num_runs, reach.passes, reach.seconds) == (1, 1, 200, 2)


def test_runs_that_do_not_reach_it_are_counted(make_run, read_back):
    runs = [make_run(seed=seed) for seed in (0, 1)]
    (reach,) = _costs(read_back, runs, [_points([0.5, 0.9]), _points([0.5, 0.6])], [0.8])
    assert (reach.num_reached, reach.num_runs, reach.passes) == (1, 2, 200)


def test_who_reaches_it_with_all_runs_and_least_passes_comes_first(make_run, read_back):
    runs = [make_run("mezo"), make_run("lozo"), make_run("hizoo")]
    points = [_points([0.5, 0.9]), _points([0.5, 0.9], passes=50.0), _points([0.5, 0.5])]
    costs = _costs(read_back, runs, points, [0.8])
    assert [reach.cell.method for reach in costs] == ["lozo", "mezo", "hizoo"]
    assert costs[-1].passes is None


def test_targets_lie_between_the_first_evaluations_and_the_best(make_run, read_back):
    costs = _costs(read_back, [make_run()], [_points([0.4, 0.8])])
    assert [reach.target for reach in costs] == pytest.approx([0.6, 0.7, 0.76])


def test_a_loss_is_no_target(make_run, read_back):
    run = make_run(metrics={"dev.loss": 1.0, "final.loss": 1.0})
    assert _costs(read_back, [run], [_points([0.5])]) == []
