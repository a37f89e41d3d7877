"""Curves: means over seeds at equal steps, what was spent up to there, and bins."""

from __future__ import annotations

import math

import pytest

from foretune.ledger import Point
from foretune.reports.choices import choose
from foretune.reports.curves import MAX_POINTS, curve_of, diagnostic_curves, quantity_label, with_spent


def _curve(make_run, read_back, points, quantity="loss"):
    logs = read_back([make_run(seed=seed) for seed in range(len(points))], points)
    return curve_of(choose(logs.runs)[0], quantity, logs)


def test_mean_and_band_over_seeds(make_run, read_back):
    spent = {"forward_passes": 20.0, "backward_passes": 5.0}
    points = [[Point(10, {"loss": loss, "seconds": 4 * loss, **spent})] for loss in (1.0, 3.0)]
    curve = _curve(make_run, read_back, points)
    assert (curve.steps, curve.passes, curve.seconds) == ((10,), (30,), (8,))
    assert (curve.mean, curve.low, curve.high, curve.num_runs) == ((2,), (1,), (3,), 2)


def test_losses_that_are_not_finite_are_left_out(make_run, read_back):
    curve = _curve(make_run, read_back, [[Point(1, {"loss": 1.0}), Point(2, {"loss": math.nan})]])
    assert curve.steps == (1,)
    assert math.isnan(curve.passes[0])


def test_a_figure_that_no_run_has_makes_no_curve(make_run, read_back):
    assert _curve(make_run, read_back, [[Point(1, {"loss": 1.0})]], "eval_loss") is None


def test_long_curves_are_averaged_in_bins(make_run, read_back):
    points = [Point(step, {"loss": float(step)}) for step in range(1, 2 * MAX_POINTS + 2)]
    curve = _curve(make_run, read_back, [points])
    assert len(curve.steps) <= MAX_POINTS
    assert curve.steps[0] == 3
    assert curve.mean[0] == pytest.approx(2.0)
    assert curve.steps[-1] == points[-1].step


def test_a_point_without_its_spent_has_that_of_the_one_before():
    points = [Point(1, {"forward_passes": 2.0}), Point(2, {"eval_loss": 1.0}), Point(3, {"forward_passes": 6.0})]
    assert [point.figures.get("forward_passes") for point in with_spent(points)] == [2.0, 2.0, 6.0]


def test_diagnostics_are_curves_of_their_own(make_run, read_back):
    logs = read_back([make_run()], [[Point(0, {"diagnostics.lora_a.cosine": 0.1, "loss": 1.0})]])
    (curve,) = diagnostic_curves(choose(logs.runs), logs)
    assert (curve.quantity, curve.steps, curve.passes, curve.mean) == ("diagnostics.lora_a.cosine", (0,), (0,), (0.1,))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("loss", "training loss"),
        ("eval_accuracy", "dev accuracy, %"),
        ("eval_loss", "dev loss"),
        ("diagnostics.lora_b.norm", "norm of LoRA B"),
        ("diagnostics.all.cosine", "cosine of estimate and gradient, all trained weights"),
    ],
)
def test_axes_name_figures_and_units(name, label):
    assert quantity_label(name) == label
