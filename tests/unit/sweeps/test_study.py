"""Attempts of trials, with workers that die at any moment; nothing is trained."""

import optuna
import pytest
from optuna.trial import TrialState

from foretune.errors import UsageError
from foretune.sweeps import study as module
from foretune.sweeps.code import check_code
from foretune.sweeps.study import MAX_DEATHS, Item, Lost, Study


def item(number, **changes):
    kept = {"key": f"k{number}", "number": number, "folder": f"f{number}", "group": "g", "options": {"lr": number}}
    return Item(**{**kept, **changes})


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'study.sqlite'}"


@pytest.fixture
def study(url):
    study = Study.create("s", url, goal="minimize")
    study.add([item(0), item(1)])
    return study


@pytest.fixture
def dies(monkeypatch):
    """Function that makes the worker of every running trial a process that is gone."""

    def die():
        monkeypatch.setattr(module, "process_start", lambda pid: None)

    return die


def states(study):
    return [progress.state for progress in study.progress()]


def test_each_trial_is_claimed_once_in_the_order_of_the_plan(study, url):
    other = Study.load("s", url)
    assert study.claim().item == item(0)
    assert other.claim().item == item(1)
    assert study.claim() is None
    assert states(other) == ["running", "running"]
    assert not study.is_over()


def test_trials_that_are_there_are_not_added_again(study, url):
    Study.create("s", url, goal="minimize").add([item(0), item(1), item(2)])
    assert states(study) == ["waiting"] * 3


def test_a_trial_that_two_processes_add_at_once_is_run_once(study):
    for _ in range(2):  # neither has seen the other's
        study._add_attempt(item(2).attributes(), generation=0)
    study.claim(), study.claim()
    assert study.claim().item.key == "k2"
    assert study.claim() is None
    assert states(study) == ["running"] * 3


def test_outcomes_are_kept(study):
    study.claim().finish("finished", value=0.5)
    study.claim().finish("diverged", error="nan")
    assert states(study) == ["finished", "diverged"]
    assert [progress.value for progress in study.progress()] == [0.5, None]
    assert study.progress()[1].error == "nan"
    assert study.is_over()
    assert study.claim() is None
    assert study.optuna_study.best_value == 0.5


def test_the_trial_of_a_dead_worker_is_taken_over_with_what_it_had_reported(study, dies):
    study.claim().report(0.7, 1)
    dies()
    claim = study.claim()
    assert claim.item == item(0)
    assert claim.trial.number == 2  # another attempt
    assert claim.report(0.7, 1) is False
    assert study.progress()[0].attempts == 2


def test_two_workers_that_take_over_at_once_make_one_attempt(study, url, dies):
    study.claim()
    dies()
    other = Study.load("s", url)
    attempts = other._attempts()["k0"]
    study.take_over()
    other._continue(attempts)  # as if it had looked before the first had added its own
    taken = [study.claim().item.key for _ in range(2)]
    assert taken == ["k0", "k1"]
    assert study.claim() is None


def test_a_worker_that_was_killed_behind_its_outcome_has_finished(study, dies):
    claim = study.claim()
    claim._set("value", 0.25)
    claim._set("outcome", "finished")  # killed here: the trial still counts as running
    dies()
    assert study.claim().item.key == "k1"
    assert states(study) == ["finished", "running"]
    assert study.optuna_study.best_value == 0.25


def test_a_worker_that_was_killed_between_an_end_and_what_follows_loses_nothing(study, dies):
    claim = study.claim()
    study.end(claim.trial._trial_id, TrialState.FAIL)  # killed before the next attempt was added
    assert study.claim().item.key == "k0"


def test_a_trial_that_is_released_is_gone_on_with(study):
    study.claim().release()
    assert states(study) == ["waiting", "waiting"]
    assert study.claim().item.key == "k0"


def test_a_trial_whose_workers_always_die_is_given_up(study, monkeypatch):
    monkeypatch.setattr(module, "_is_dead", lambda attempt: True)
    for _ in range(MAX_DEATHS):
        assert study.claim().item.key == "k0"
    assert study.claim().item.key == "k1"
    first = study.progress()[0]
    assert (first.state, first.error) == ("failed", f"{MAX_DEATHS} workers died while they ran it.")


def test_a_worker_that_was_silent_for_too_long_is_told(study, monkeypatch):
    claim = study.claim()
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.01)
    with claim.held():
        claim.check()
        study.end(claim.trial._trial_id, TrialState.FAIL)  # another has taken it over
        claim._lost.wait(10)
        with pytest.raises(Lost):
            claim.check()
    with pytest.raises(Lost):
        claim.finish("finished", value=1.0)


def test_a_worker_on_another_machine_is_dead_when_it_is_silent(url, monkeypatch):
    study = Study.create("s", url, goal="minimize")
    study.add([item(0)])
    study.claim()
    monkeypatch.setattr(module, "machine", lambda: "another")
    assert study.claim() is None
    monkeypatch.setattr(study._storage, "grace_period", -1)
    assert study.claim().item.key == "k0"


def test_another_version_of_the_code_is_refused_or_recorded(study, monkeypatch, caplog):
    monkeypatch.setattr("foretune.sweeps.code.code_version", lambda: "1 (aa)")
    check_code(study, any_code=False)
    check_code(study, any_code=False)
    monkeypatch.setattr("foretune.sweeps.code.code_version", lambda: "1 (bb)")
    with pytest.raises(UsageError, match=r"Study s is run by foretune 1 \(aa\), and this is 1 \(bb\)"):
        check_code(study, any_code=False)
    check_code(study, any_code=True)
    assert study.attribute("code") == ["1 (aa)", "1 (bb)"]
    assert "is run by foretune 1 (aa), and now by 1 (bb)" in caplog.text


def test_a_study_or_database_that_is_not_there_is_named(url, study, tmp_path):
    with pytest.raises(UsageError, match=r"has no such study\. Did you mean: s\?"):
        Study.load("ss", url)
    with pytest.raises(UsageError, match=r"--study x: there is no .*none\.sqlite"):
        Study.load("x", f"sqlite:///{tmp_path / 'none.sqlite'}")
    with pytest.raises(UsageError, match="--storage nonsense is no database's address"):
        Study.create("x", "nonsense", goal="minimize")
    with pytest.raises(UsageError, match=r"postgresql://me:\*\*\*@127.0.0.1:1/none cannot be opened"):
        Study.create("x", "postgresql://me:secret@127.0.0.1:1/none", goal="minimize")


def test_optuna_sees_the_study(study, url):
    study.claim().finish("pruned", error="flat")
    (name,) = optuna.get_all_study_names(url)
    assert name == "s"
    assert [trial.state for trial in optuna.load_study(study_name="s", storage=url).trials] == [
        TrialState.PRUNED,
        TrialState.WAITING,
    ]
