"""Heat maps of learning rate and perturbation scale."""

from __future__ import annotations

import pytest

from foretune.reports.choices import choose
from foretune.reports.sensitivity import Square, heat_maps


def test_a_map_has_means_failures_and_gaps(make_run):
    runs = [
        *(make_run(lr=1e-6, zo_eps=1e-3, dev=dev, seed=seed) for seed, dev in enumerate((0.8, 0.9))),
        make_run(lr=1e-5, zo_eps=1e-3, status="diverged", metrics={}),
        make_run(lr=1e-6, zo_eps=1e-2, dev=0.7),
    ]
    _, found = heat_maps(choose(runs))
    assert (found.rates, found.scales) == ((1e-6, 1e-5), (1e-3, 1e-2))
    assert found.squares[0][0] == Square(pytest.approx(0.85), 2, 0, chosen=True)
    assert found.squares[0][1] == Square(None, 1, 1, chosen=False)
    assert found.squares[1] == (Square(0.7, 1, 0, chosen=False), None)
    assert sorted(found.values) == pytest.approx([0.7, 0.85])
    by_loss, _ = heat_maps(choose(runs))  # of the figure that chose the settings
    assert (by_loss.metric, found.metric) == ("loss", "accuracy")
    assert sorted(by_loss.values) == pytest.approx([0.15, 0.3])


def test_runs_with_other_settings_than_the_chosen_ones_are_left_out(make_run):
    other = {"method": {"name": "mezo", "lr": 1e-5, "zo_eps": 1e-3, "weight_decay": 0.1}}
    runs = [make_run(lr=1e-6, dev=0.9), make_run(lr=1e-4, dev=0.8), make_run(config=other, dev=0.1)]
    _, found = heat_maps(choose(runs))
    assert found.rates == (1e-6, 1e-4)


def test_a_method_without_a_scale_has_one_row(make_run):
    runs = [make_run("sgd", config={"method": {"name": "sgd", "lr": lr}}, dev=lr) for lr in (0.1, 0.2)]
    _, found = heat_maps(choose(runs))
    assert (found.rates, found.scales) == ((0.1, 0.2), (None,))


def test_one_setting_makes_no_map(make_run):
    assert heat_maps(choose([make_run()])) == []
