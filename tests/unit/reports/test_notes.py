"""What is said before comparing."""

from __future__ import annotations

from foretune.reports.choices import choose
from foretune.reports.notes import notes


def _notes(runs):
    return notes(runs, choose(runs))


def test_equal_and_complete_runs_need_no_note(make_run):
    runs = [make_run(method, lr=lr, seed=seed) for method in ("mezo", "lozo") for lr in (1, 2) for seed in (0, 1)]
    assert _notes(runs) == []


def test_failed_runs_are_counted(make_run):
    runs = [make_run(seed=seed) for seed in (0, 1)]
    runs += [make_run(lr=1.0, seed=seed, status=status) for seed, status in enumerate(("failed", "pruned"))]
    assert _notes(runs) == ["2 of 4 runs have no result (1 failed, 1 pruned); they count as trials."]


def test_unequal_budgets_and_tuning_are_named(make_run):
    runs = [make_run(method, seed=seed) for method in ("mezo", "lozo") for seed in (0, 1)]
    runs += [make_run("hizoo", lr=lr, seed=seed, forward_passes=300) for lr in (1, 2) for seed in (0, 1)]
    tuned, budget = _notes(runs)
    assert tuned.startswith("sst2 with opt-13b: methods were tuned unequally, with 1 to 2 settings")
    assert budget == "hizoo (full, sst2): its budget was 300 forward passes, that of most others 200."


def test_equal_sentences_stand_once(make_run):
    (note,) = _notes([make_run(method) for method in ("mezo", "lozo", "es", "fzoo", "hizoo", "zo_adam", "zo_sign")])
    assert note.count("one seed") == 1
    assert "and 1 more" in note
