import optuna
import pytest

from foretune.sweeps.pruning import Pruning


def trial(values):
    return optuna.create_trial(
        state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(enumerate(values, start=1))
    )


@pytest.mark.parametrize(
    ("direction", "values", "ends"),
    [
        ("minimize", [0.9, 0.8, 0.7], False),
        ("minimize", [0.7, 0.7, 0.7], True),  # a plateau: two evaluations without progress
        ("minimize", [0.7, 0.8, 0.65], False),
        ("minimize", [0.7, 0.695, 0.695], True),  # less progress than counts
        ("minimize", [0.7, 0.7], False),  # nothing before the last two
        ("maximize", [0.5, 0.6, 0.7], False),
        ("maximize", [0.6, 0.5, 0.6], True),
    ],
)
def test_a_flat_trial_ends_when_its_last_evaluations_are_no_better(direction, values, ends):
    study = optuna.create_study(direction=direction)
    assert Pruning(rule="flat", patience=2, min_delta=0.01).pruner().prune(study, trial(values)) is ends


def test_hyperband_keeps_one_in_eta():
    study = optuna.create_study(direction="minimize")
    study.pruner = Pruning(rule="hyperband", min_iter=1, eta=3).pruner()
    ended = []
    for value in (0.1, 0.5, 0.4, 0.3):
        running = study.ask()
        running.report(value, 1)
        ended.append(running.should_prune())
    # asynchronous: the best third of those that came as far, at least one
    assert ended == [False, True, True, True]
