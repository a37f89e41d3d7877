"""The study: trials in a database that any number of workers, on any machines, take from.

A trial may need several attempts, because workers die. An attempt is a trial of Optuna with attributes: the key of the
trial, the number of the attempt among those of this key (its generation), the worker that has it, and the outcome.
Of several with one key and generation, which two workers may add at the same moment, the first is the attempt; the
others are copies that nobody runs. So every step here can be repeated, and a process may be killed between any two.
"""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from foretune.errors import UsageError, near_misses
from foretune.liveness import beating, machine, process_start
from foretune.sweeps.file import Goal

Outcome = Literal["finished", "pruned", "diverged", "failed"]
State = Literal["waiting", "running", "finished", "pruned", "diverged", "failed"]

HEARTBEAT_SECONDS = 15
GRACE_SECONDS = 120
"""Silence after which a worker on another machine is taken for dead; on its own machine its process is looked for."""
MAX_DEATHS = 10
"""Workers that may die of a trial before it is given up: it may be what kills them."""
_LOCK_SECONDS = 60

_OUTCOME_STATES = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A trial as the database keeps it.

    Attributes:
        key: Unlike that of any other; see `Planned`. Of a trial whose settings are proposed later: its place.
        number: Its place in the plan.
        folder: Name of its folder and of its run.
        options: Of `foretune train`; None where they are proposed when a worker takes it.
        settings: Equal for trials that differ in their seeds alone; None as with options.
        group: What it is compared within.
        suite: The suite it is from.
        chosen_seeds: Further seeds, should its settings be chosen.
    """

    key: str
    number: int
    folder: str
    group: str
    options: Mapping[str, Any] | None = None
    settings: str | None = None
    suite: str | None = None
    chosen_seeds: tuple[int, ...] = ()

    def attributes(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Item:
        """Read what `attributes` gave, with what has been proposed since."""
        known = {**attributes, **attributes.get("proposal", {})}
        names = ("key", "number", "folder", "group", "options", "settings", "suite")
        return cls(**{name: known[name] for name in names}, chosen_seeds=tuple(known["chosen_seeds"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a trial stands.

    Attributes:
        item: The trial.
        state: Its state; that of its last attempt.
        value: Of the metric; None before it is known.
        error: Why it failed, or was ended.
        worker: Who has it, or had it last.
        attempts: How often it was begun.
    """

    item: Item
    state: State
    value: float | None
    error: str | None
    worker: str | None
    attempts: int


class Lost(Exception):
    """The trial was taken over by another worker, because this one was silent for too long."""


class Study:
    """A study in a database.

    Args:
        study: Optuna's.
        storage: Where it is.
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage) -> None:
        self._study = study
        self._storage = storage

    # ---------------------------------------------------------------- open

    @classmethod
    def create(cls, name: str, url: str, *, goal: Goal) -> Study:
        """Open a study, made if it is missing.

        Raises:
            UsageError: the database cannot be opened.
        """
        storage = _open(url)
        with _quiet():
            study = optuna.create_study(
                study_name=name, storage=storage, direction=goal, load_if_exists=True, sampler=_no_sampler()
            )
        return cls(study, storage)

    @classmethod
    def load(cls, name: str, url: str) -> Study:
        """Open a study that is there.

        Raises:
            UsageError: it is not, or the database cannot be opened.
        """
        path = make_url(url).database if url.startswith("sqlite") else None
        if path and not Path(path).exists():
            raise UsageError(f"--study {name}: there is no {path}; 'foretune sweep FILE' makes a study.")
        storage = _open(url)
        try:
            with _quiet():
                study = optuna.load_study(study_name=name, storage=storage, sampler=_no_sampler())
        except KeyError:
            known = optuna.get_all_study_names(storage)
            raise UsageError(
                f"--study {name}: {hide_password(url)} has no such study.{near_misses(name, known)}"
            ) from None
        return cls(study, storage)

    @property
    def name(self) -> str:
        """Its name in the database."""
        return self._study.study_name

    @property
    def goal(self) -> Goal:
        """Whether less or more of the metric is better."""
        return "minimize" if self._study.direction == optuna.study.StudyDirection.MINIMIZE else "maximize"

    @property
    def optuna_study(self) -> optuna.Study:
        """What proposes settings and decides about pruning."""
        return self._study

    def attribute(self, name: str) -> Any:
        """Return an attribute of the study; None if it has none of this name."""
        return self._study.user_attrs.get(name)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute of the study, something that JSON can hold."""
        self._study.set_user_attr(name, value)

    # ---------------------------------------------------------------- trials

    def add(self, items: Iterable[Item]) -> None:
        """Add trials that are not there yet."""
        known = {trial.user_attrs["key"] for trial in self._all()}
        for item in items:
            if item.key not in known:
                self._add_attempt(item.attributes(), generation=0)

    def progress(self) -> list[Progress]:
        """Return where every trial stands, in the order of the plan."""
        found = []
        for attempts in self._attempts().values():
            last = attempts[-1]
            found.append(
                Progress(
                    item=Item.of(last.user_attrs),
                    state=_state(last),
                    value=last.user_attrs.get("value"),
                    error=last.user_attrs.get("error"),
                    worker=last.user_attrs.get("worker", {}).get("name"),
                    attempts=sum("worker" in attempt.user_attrs for attempt in attempts),
                )
            )
        return sorted(found, key=lambda progress: progress.item.number)

    def claim(self) -> Claim | None:
        """Take the first trial that waits; None if none does.

        Those of dead workers wait again first. No two workers get the same.
        """
        self.take_over()
        waiting = [trial for trial in self._all() if trial.state == TrialState.WAITING]
        for trial in sorted(waiting, key=lambda trial: (trial.user_attrs["number"], trial.number)):
            try:
                if not self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    continue
            except UpdateFinishedTrialError:
                continue
            self._storage.record_heartbeat(trial._trial_id)
            self._storage.set_trial_user_attr(trial._trial_id, "worker", _this_worker())
            key, generation = trial.user_attrs["key"], trial.user_attrs["generation"]
            if self._attempts()[key][generation].number != trial.number:
                self.end(trial._trial_id, TrialState.FAIL)  # a copy
                continue
            return Claim(self, trial._trial_id, Item.of(trial.user_attrs))
        return None

    def is_over(self) -> bool:
        """Whether no trial waits or runs."""
        return all(progress.state not in ("waiting", "running") for progress in self.progress())

    # ---------------------------------------------------------------- attempts

    def _all(self) -> Sequence[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if "key" in trial.user_attrs]

    def _attempts(self) -> dict[str, list[FrozenTrial]]:
        """Return the attempts of every key by generation, copies left out."""
        found: dict[str, list[FrozenTrial]] = {}
        for trial in sorted(self._all(), key=lambda trial: (trial.user_attrs["generation"], trial.number)):
            attempts = found.setdefault(trial.user_attrs["key"], [])
            if trial.user_attrs["generation"] == len(attempts):
                attempts.append(trial)
        return found

    def _add_attempt(
        self,
        attributes: Mapping[str, Any],
        *,
        generation: int,
        after: FrozenTrial | None = None,
        state: TrialState = TrialState.WAITING,
    ) -> None:
        """Add an attempt; one after another has what that had found so far."""
        self._study.add_trial(
            optuna.create_trial(
                state=state,
                user_attrs={**attributes, "generation": generation},
                params=after.params if after else None,
                distributions=after.distributions if after else None,
                intermediate_values=after.intermediate_values if after else None,
            )
        )

    def take_over(self) -> None:
        """Have the trials of dead workers wait again."""
        with _quiet():
            optuna.storages.fail_stale_trials(self._study)  # those of other machines: silent for too long
        for attempts in self._attempts().values():
            last = attempts[-1]
            if last.state == TrialState.RUNNING and _is_dead(last):
                outcome = last.user_attrs.get("outcome")  # killed between its outcome and its end
                value = last.user_attrs.get("value")
                state = _OUTCOME_STATES[outcome] if outcome else TrialState.FAIL
                if not self.end(last._trial_id, state, value if state == TrialState.COMPLETE else None):
                    continue
            elif last.state != TrialState.FAIL:
                continue
            if "outcome" not in last.user_attrs:
                self._continue(attempts)

    def _continue(self, attempts: Sequence[FrozenTrial]) -> None:
        last = attempts[-1]
        attributes = Item.of(last.user_attrs).attributes()
        deaths = sum("released" not in attempt.user_attrs for attempt in attempts)
        state = TrialState.WAITING
        if deaths >= MAX_DEATHS:
            attributes |= {"outcome": "failed", "error": f"{deaths} workers died while they ran it."}
            state = TrialState.FAIL
        self._add_attempt(attributes, generation=len(attempts), after=last, state=state)

    def end(self, trial_id: int, state: TrialState, value: float | None = None) -> bool:
        """End an attempt; False if another process has."""
        try:
            self._storage.set_trial_state_values(trial_id, state, None if value is None else [value])
        except UpdateFinishedTrialError:
            return False
        return True


class Claim:
    """A trial that this process has.

    Args:
        study: The study.
        trial_id: Of the attempt, in the database.
        item: The trial.
    """

    def __init__(self, study: Study, trial_id: int, item: Item) -> None:
        self._study = study
        self._storage = study._storage
        self._id = trial_id
        self.item = item
        self.trial = optuna.Trial(study.optuna_study, trial_id)
        self._lost = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block in which signs of life are given."""

        def beat() -> bool:
            try:
                if self._storage.get_trial(self._id).state != TrialState.RUNNING:
                    self._lost.set()
                    return False
                self._storage.record_heartbeat(self._id)
            except StorageInternalError:  # the database is away: others will tell whether for too long
                pass
            return True

        with beating(beat, seconds=HEARTBEAT_SECONDS, name="foretune-sweep-heartbeat"):
            yield

    def check(self) -> None:
        """Say whether the trial is still this worker's.

        Raises:
            Lost: it is not.
        """
        if self._lost.is_set():
            raise Lost(self.item.folder)

    def propose(self, options: Mapping[str, Any], *, settings: str, folder: str) -> None:
        """Note the settings that were proposed; a worker that takes over has the same."""
        proposal = {"options": dict(options), "settings": settings, "folder": folder}
        self._set("proposal", proposal)
        self.item = replace(self.item, **proposal)

    def report(self, value: float, evaluation: int) -> bool:
        """Take the metric of an evaluation, counted from 1, and say whether the trial is to be ended."""
        if evaluation not in self._storage.get_trial(self._id).intermediate_values:
            self.trial.report(value, evaluation)
        return self.trial.should_prune()

    def finish(self, outcome: Outcome, *, value: float | None = None, error: str | None = None) -> None:
        """Say how the trial ended, for good.

        Raises:
            Lost: another worker has it by now.
        """
        for name, content in (("value", value), ("error", error), ("outcome", outcome)):
            if content is not None:
                self._set(name, content)
        state = _OUTCOME_STATES[outcome]
        self._study.end(self._id, state, value if state == TrialState.COMPLETE else None)

    def release(self) -> None:
        """Leave the trial to be gone on with.

        Raises:
            Lost: another worker has it by now.
        """
        self._set("released", True)
        self._study.end(self._id, TrialState.FAIL)
        self._study.take_over()

    def _set(self, name: str, value: Any) -> None:
        try:
            self._storage.set_trial_user_attr(self._id, name, value)
        except UpdateFinishedTrialError:
            raise Lost(self.item.folder) from None


def hide_password(url: str) -> str:
    """Return a database's address as it may be shown."""
    return make_url(url).render_as_string(hide_password=True)


def _open(url: str) -> RDBStorage:
    shown = url
    try:
        shown = hide_password(url)
        # a server's connection is closed after each use: there are minutes between two, and a process may be killed
        options = {"connect_args": {"timeout": _LOCK_SECONDS}} if url.startswith("sqlite") else {"poolclass": NullPool}
        with _quiet():
            return RDBStorage(
                url, engine_kwargs=options, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS
            )
    except (ArgumentError, NoSuchModuleError):
        raise UsageError(
            f"--storage {shown} is no database's address: give sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or "
            "mysql+pymysql://..."
        ) from None
    except ImportError as error:
        raise UsageError(
            f"--storage {shown}: its driver is missing ({error}); for PostgreSQL: pip install 'foretune[postgresql]'."
        ) from None
    except (StorageInternalError, SQLAlchemyError, RuntimeError, OSError) as error:
        raise UsageError(f"--storage {shown} cannot be opened: {_cause(error)}.") from None


def _cause(error: Exception) -> str:
    """Return the words of an error without the statement and the address that SQLAlchemy puts behind them."""
    return " ".join(str(error).partition("[SQL:")[0].partition("(Background")[0].split())[:300].rstrip(".")


def _no_sampler() -> optuna.samplers.BaseSampler:
    """Return the sampler of studies whose trials are planned: it is never asked."""
    return optuna.samplers.RandomSampler(seed=0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Optuna's reports, and that heartbeats may change in a later version: ours is pinned to a major one."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _state(attempt: FrozenTrial) -> State:
    if outcome := attempt.user_attrs.get("outcome"):
        return outcome
    return "running" if attempt.state == TrialState.RUNNING else "waiting"


def _this_worker() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "name": f"{socket.gethostname()}:{pid}",
        "machine": machine(),
        "pid": pid,
        "start": process_start(pid),
    }


def _is_dead(attempt: FrozenTrial) -> bool:
    """Whether the worker of a running attempt is known to be gone."""
    worker = attempt.user_attrs.get("worker")
    if worker is None:  # killed before it could say who it is, if it was
        begun = attempt.datetime_start
        return begun is not None and datetime.now() - begun > timedelta(seconds=GRACE_SECONDS)
    return worker["machine"] == machine() and worker["start"] != process_start(worker["pid"])
