"""Lines of the leaderboard: means over seeds, costs, and what they are compared with."""

from __future__ import annotations

import pytest

from foretune.reports.choices import choose
from foretune.reports.leaderboard import MAJORITY, ZERO_SHOT, leaderboard
from foretune.reports.memory import memory_bars


def test_a_line_has_mean_spread_gain_and_costs(make_run):
    runs = [
        make_run(test=test, seed=seed, seconds=10.0 + seed, peak_memory_bytes=100 + seed, backward_passes=50)
        for seed, test in enumerate((0.6, 0.8))
    ]
    line = leaderboard(choose(runs))[0]
    assert (line.test.mean, line.test.count) == (pytest.approx(0.7), 2)
    assert line.test.deviation == pytest.approx(0.1 * 2**0.5)
    assert line.seeds == (0.6, 0.8)
    assert line.gain == pytest.approx(0.3)
    assert (line.passes, line.seconds, line.peak_memory_bytes) == (300, 10.5, 101)
    assert line.published[0].text == "91.4"


def test_the_best_comes_first_with_what_it_is_compared_with(make_run):
    metrics = {"dev.loss": 1.0, "zero_shot.accuracy": 0.5, "majority.accuracy": 0.7}
    runs = [make_run(m, metrics=metrics | {"final.accuracy": a}) for m, a in (("lozo", 0.6), ("mezo", 0.9))]
    assert [line.cell.method for line in leaderboard(choose(runs))] == ["mezo", MAJORITY, "lozo", ZERO_SHOT]


def test_less_loss_is_better(make_run):
    runs = [make_run(m, metrics={"dev.loss": 1.0, "final.loss": loss}) for m, loss in (("lozo", 2.0), ("mezo", 1.0))]
    assert [line.cell.method for line in leaderboard(choose(runs))] == ["mezo", "lozo"]


def test_runs_without_test_figures_have_no_line(make_run):
    assert leaderboard(choose([make_run(metrics={"dev.loss": 1.0})])) == []


def test_memory_bars_are_those_of_lines_that_know_it(make_run):
    runs = [
        make_run(m, peak_memory_bytes=size, device="H100") for m, size in (("mezo", 9), ("adam", 30), ("lozo", None))
    ]
    bars = memory_bars(leaderboard(choose(runs)))
    assert [(bar.cell.method, bar.num_bytes, bar.device) for bar in bars] == [("mezo", 9, "H100"), ("adam", 30, "H100")]
