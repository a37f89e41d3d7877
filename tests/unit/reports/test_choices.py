"""What is chosen on dev rows, and what stands for itself."""

from __future__ import annotations

import pytest

from foretune.reports.choices import Cell, choose, main_metric, show, show_spread


def test_settings_are_chosen_on_dev_rows_whatever_test_rows_say(make_run):
    worse = [make_run(lr=1e-5, dev=0.6, test=0.9, seed=seed) for seed in (0, 1)]
    better = [make_run(lr=1e-6, dev=0.7, test=0.8, seed=seed) for seed in (0, 1)]
    failed = make_run(lr=1e-4, status="diverged", metrics={})
    (choice,) = choose([*worse, failed, *better])
    assert choice.cell == Cell("opt-13b", "sst2", "full", "mezo")
    assert {run.id for run in choice.runs} == {run.id for run in better}
    assert (choice.num_settings, len(choice.tried), choice.num_unfinished) == (3, 5, 1)
    assert choice.settings() == {"lr": 1e-6, "zo_eps": 1e-3}
    assert choice.settings_text() == "lr 1e-6, zo_eps 1e-3"
    assert choice.spread("final").mean == pytest.approx(0.8)


def test_few_shot_settings_are_chosen_by_dev_accuracy_and_are_a_task_of_their_own(make_run):
    by_loss = make_run(
        lr=1e-5, config={"shots": 16}, metrics={"dev.loss": 0.1, "dev.accuracy": 0.6, "final.accuracy": 1}
    )
    by_accuracy = make_run(config={"shots": 16}, metrics={"dev.loss": 0.2, "dev.accuracy": 0.7, "final.accuracy": 0})
    (choice,) = choose([by_loss, by_accuracy])
    assert choice.cell.task == "sst2 (k=16)"
    assert choice.runs[0].id == by_accuracy.id


def test_one_model_in_two_places_is_one(make_run):
    choices = choose([make_run(model="/a/Opt-Mini"), make_run(model="/b/c/Opt-Mini/", seed=1)])
    assert [choice.cell.model for choice in choices] == ["opt-mini"]
    assert len(choices[0].tried) == 2


def test_a_replaced_part_makes_another_method(make_run):
    method = {"name": "mezo", "lr": 1.0, "space": {"name": "masked", "sparsity": 0.5}}
    assert choose([make_run(config={"method": method})])[0].cell.method == "mezo, space masked"


def test_without_dev_figures_nothing_is_chosen(make_run):
    runs = [make_run(lr=lr, metrics={"final.accuracy": lr}) for lr in (0.1, 0.2)]
    choices = choose(runs)
    assert [choice.selection for choice in choices] == [None, None]
    assert "chosen on test rows" in choices[0].problems[0]


def test_imported_runs_whose_settings_are_unknown_are_not_taken_for_seeds(make_run):
    runs = [make_run(status="imported", source="tensorboard", config={}, metrics={}) for _ in range(2)]
    runs = [type(run)(**{**{f: getattr(run, f) for f in run.__slots__}, "config": {}}) for run in runs]
    assert [len(choice.runs) for choice in choose(runs)] == [1, 1]


def test_runs_that_did_not_end_are_no_choice(make_run):
    assert choose([make_run(status="failed", metrics={})]) == []


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"final.loss": 1.0, "final.accuracy": 0.5}, "accuracy"),
        ({"final.loss": 1.0, "final.brevity": 0.5}, "brevity"),
        ({"final.loss": 1.0}, "loss"),
        ({"dev.accuracy": 1.0}, "accuracy"),
        ({"zero_shot.accuracy": 1.0}, ""),
    ],
)
def test_the_metric_that_counts(make_run, metrics, expected):
    assert main_metric([make_run(metrics=metrics)]) == expected


def test_shares_are_shown_in_per_cent(make_run):
    assert show(0.9137, "accuracy") == "91.4"
    assert show(0.9137, "loss") == "0.9137"
    assert show(float("nan"), "accuracy") == "–"
    (choice,) = choose([make_run(test=test, seed=seed) for seed, test in enumerate((0.8, 0.9))])
    assert show_spread(choice.spread("final"), "accuracy") == "85.0 ± 7.1"
    assert show_spread(None, "accuracy") == "–"
