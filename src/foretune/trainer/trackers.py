"""Trackers: transformers' own callbacks, told where their files go and which run of theirs a resumed one continues.

Files lie in the run's folder unless the tracker's own variable names another place (TENSORBOARD_LOGGING_DIR, WANDB_DIR,
MLFLOW_TRACKING_URI, TRACKIO_DIR). A run that the user has begun with the tracker is logged to and never ended.
"""

from __future__ import annotations

import abc
import os
import secrets
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from foretune.errors import PrunedError, TrackerError, UsageError, near_misses
from foretune.trainer.arguments import RunArguments
from foretune.trainer.checkpoint import read_json, write_json
from foretune.trainer.publishing import PublishingTrainer

IDS_NAME = "trackers.json"
"""In a run's folder: what each tracker calls it."""

_AVAILABLE = {
    "tensorboard": is_tensorboard_available,
    "wandb": is_wandb_available,
    "mlflow": is_mlflow_available,
    "trackio": is_trackio_available,
}
TRACKERS = tuple(_AVAILABLE)
"""Those that were tried."""

_PICKLING = {
    "WANDB_LOG_MODEL": ("wandb", "uploads a pickle of the training arguments beside the model"),
    "HF_MLFLOW_LOG_ARTIFACTS": ("mlflow", "logs each checkpoint inside a pickle"),
    "WANDB_WATCH": ("wandb", "reads gradients, and parameters while they are perturbed"),
}
"""Variables that switch on what does not fit here, of which tracker, and what that is."""
_OFF = ("", "0", "false", "no", "off")


def check_trackers(names: Sequence[str], *, option: str, known: Collection[str] = INTEGRATION_TO_CALLBACK) -> None:
    """Refuse trackers that are unknown or not installed, and what would pickle into or beside the run.

    Args:
        names: As in `report_to` of transformers.
        option: What they were given to, for messages.
        known: Names that are understood.
    Raises:
        UsageError: naming the tracker, and what to install.
    """
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {name}: there is no such tracker.{near_misses(name, known)}")
        if name in _AVAILABLE and not _AVAILABLE[name]():
            raise UsageError(f"{option} {name}: {name} is not installed; pip install {name}.")
    for variable, (name, reason) in _PICKLING.items():
        value = os.environ.get(variable, "")
        if name in names and value.lower() not in _OFF:
            raise UsageError(f"{option} {name}: the variable {variable}={value} {reason}; unset it.")


def check_login(names: Sequence[str], *, option: str) -> None:
    """Refuse W&B where it would send figures to its server and has no key for it, or does not reach it.

    Raises:
        TrackerError: saying what to do.
    """
    if "wandb" not in names:
        return
    import wandb

    if wandb.run is not None or wandb.setup().settings.mode != "online":
        return
    try:
        has_key = wandb.login(prompt=False)
    except wandb.errors.Error as error:
        raise TrackerError(f"{option} wandb: {_line(error)} WANDB_MODE=offline needs no server.") from error
    if not has_key:
        raise TrackerError(f"{option} wandb: there is no key: 'wandb login', or WANDB_MODE=offline for files alone.")


class AbstractTracker(abc.ABC):
    """A tracker's callback, its files and its run.

    Args:
        callback: The callback of transformers.
        args: Of the trainer.
    """

    name: ClassVar[str]
    ends_with_training: ClassVar[bool] = False
    """Whether the run is closed when training is over, not only when the trainer or the process is done."""

    def __init__(self, callback: Any, args: RunArguments) -> None:
        self._callback = callback
        self._args = args

    @abc.abstractmethod
    def begin(self, step: int) -> None:
        """Open the tracker's run, or the one that an interrupted run had, unless one is open.

        Args:
            step: Where the run stands.
        """

    def begin_training(self, step: int) -> None:
        """The same when training begins, or begins again at an earlier step."""
        self.begin(step)

    @abc.abstractmethod
    def end(self, *, failed: bool = False) -> None:
        """Close the tracker's run, if it was opened here."""

    @property
    def _folder(self) -> Path:
        return Path(self._args.output_dir or ".").absolute()

    @property
    def _run_name(self) -> str:
        return self._args.run_name or self._folder.name

    def _recorded_id(self) -> str | None:
        path = self._folder / IDS_NAME
        return read_json(path).get(self.name) if path.exists() else None

    def _record_id(self, run_id: str) -> None:
        path = self._folder / IDS_NAME
        write_json(path, {**(read_json(path) if path.exists() else {}), self.name: run_id})


class _TensorBoard(AbstractTracker):
    """One folder of events; what is logged again after a resume or a rollback replaces what is there."""

    name: ClassVar[str] = "tensorboard"

    def begin_training(self, step: int) -> None:
        self.end()
        self.begin(step)

    def begin(self, step: int) -> None:
        callback = self._callback
        if callback.tb_writer is not None:
            return
        if callback.logging_dir is None:
            callback.logging_dir = str(self._folder / self.name)
        callback.tb_writer = callback._SummaryWriter(log_dir=callback.logging_dir, purge_step=step + 1)

    def end(self, *, failed: bool = False) -> None:
        if self._callback.tb_writer is not None:
            self._callback.tb_writer.close()
            self._callback.tb_writer = None


class _ProcessWide(AbstractTracker):
    """A tracker of which a process has one open run at most: that of an earlier trainer is ended first."""

    _open: ClassVar[dict[str, _ProcessWide]] = {}

    def begin(self, step: int) -> None:
        other = self._open.get(self.name)
        if other is not None and other is not self:
            other.end()
        if not self._is_open():
            try:
                self._start()
            except self._error as error:
                raise TrackerError(f"{self.name} cannot begin a run: {_line(error)}") from error
            self._open[self.name] = self

    def end(self, *, failed: bool = False) -> None:
        if self._open.get(self.name) is self:
            del self._open[self.name]
            self._finish(failed=failed)

    @property
    @abc.abstractmethod
    def _error(self) -> type[Exception]:
        """What the tracker raises."""

    @abc.abstractmethod
    def _is_open(self) -> bool:
        """Whether there is an open run, the user's own or this one."""

    @abc.abstractmethod
    def _start(self) -> None:
        """Open the run."""

    @abc.abstractmethod
    def _finish(self, *, failed: bool) -> None:
        """Close it."""


class _WandB(_ProcessWide):
    name: ClassVar[str] = "wandb"

    @property
    def _error(self) -> type[Exception]:
        return self._callback._wandb.errors.Error

    def _is_open(self) -> bool:
        return self._callback._wandb.run is not None

    def _start(self) -> None:
        run = self._callback._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self._args.project,
            name=self._run_name,
            dir=os.environ.get("WANDB_DIR") or str(self._folder),
            id=os.environ.get("WANDB_RUN_ID") or self._recorded_id(),
            resume=os.environ.get("WANDB_RESUME") or "allow",
        )
        self._record_id(run.id)

    def _finish(self, *, failed: bool) -> None:
        self._callback._wandb.finish(exit_code=int(failed))


class _MLflow(_ProcessWide):
    name: ClassVar[str] = "mlflow"
    ends_with_training: ClassVar[bool] = True  # as transformers' callback has it with a run that it has begun

    def __init__(self, callback: Any, args: RunArguments) -> None:
        super().__init__(callback, args)
        self._is_placed = False

    @property
    def _error(self) -> type[Exception]:
        return self._callback._ml_flow.exceptions.MlflowException

    def _is_open(self) -> bool:
        return self._callback._ml_flow.active_run() is not None

    def _start(self) -> None:
        mlflow = self._callback._ml_flow
        if not mlflow.is_tracking_uri_set():
            mlflow.set_tracking_uri(f"sqlite:///{self._folder / 'mlflow.db'}")
            self._is_placed = True
        if os.environ.get("MLFLOW_RUN_ID"):
            return  # the callback goes on with that one
        if experiment := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment(experiment)
        run = mlflow.start_run(run_id=self._run_to_go_on_with(), run_name=self._run_name)
        self._record_id(run.info.run_id)

    def _run_to_go_on_with(self) -> str | None:
        """Return the run that is recorded, unless it was deleted or is in another store."""
        mlflow = self._callback._ml_flow
        run_id = self._recorded_id()
        try:
            return run_id and mlflow.get_run(run_id).info.run_id
        except self._error:
            return None

    def _finish(self, *, failed: bool) -> None:
        mlflow = self._callback._ml_flow
        mlflow.end_run("FAILED" if failed else "FINISHED")
        if self._is_placed:
            mlflow.set_tracking_uri(None)
            self._is_placed = False


class _Trackio(AbstractTracker):
    """The callback opens and closes the run itself, by its name; its folder is fixed when trackio is imported."""

    name: ClassVar[str] = "trackio"

    def begin(self, step: int) -> None:
        if self._args.run_name is None:
            self._args.run_name = self._recorded_id() or f"{self._folder.name}-{secrets.token_hex(4)}"
            self._record_id(self._args.run_name)

    def end(self, *, failed: bool = False) -> None:
        if self._callback._initialized:
            self._callback._trackio.finish()
            self._callback._initialized = False


_KINDS: Mapping[type, type[AbstractTracker]] = {
    TensorBoardCallback: _TensorBoard,
    WandbCallback: _WandB,
    MLflowCallback: _MLflow,
    TrackioCallback: _Trackio,
}


class TrackedTrainer(PublishingTrainer, abc.ABC):
    """A trainer whose trackers write into its folder, and go on with their own run when it is resumed."""

    def __init__(self, *, args: RunArguments, **kwargs: Any) -> None:
        check_trackers(_names(args), option="report_to")
        with _trackio_placed(args):
            super().__init__(args=args, **kwargs)
        self._trackers = [
            (callback, _KINDS[type(callback)](callback, args))
            for callback in self.callback_handler.callbacks
            if type(callback) in _KINDS
        ]
        if self._trackers:
            self.callback_handler.callbacks.insert(0, _Opening([tracker for _, tracker in self._trackers]))

    def track(self, figures: Mapping[str, float]) -> None:
        """Send figures to the trackers, and to no other callback."""
        for callback, tracker in self._trackers:
            tracker.begin(self.state.global_step)
            callback.on_log(self.args, self.state, self.control, logs=dict(figures), model=self.model)

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Close the trackers' runs when what is inside ends with an error; a pruned run has not failed."""
        try:
            yield
        except BaseException as error:
            self.end_tracking(failed=not isinstance(error, PrunedError))
            raise

    def end_tracking(self, *, failed: bool = False) -> None:
        """Close the trackers' runs; without, W&B's stays open until the process ends, as it does in transformers."""
        for _, tracker in self._trackers:
            tracker.end(failed=failed)


class _Opening(TrainerCallback):
    """First in line: opens the trackers' runs before their own callbacks would."""

    def __init__(self, trackers: Sequence[AbstractTracker]) -> None:
        self._trackers = trackers

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for tracker in self._trackers:
            tracker.begin_training(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for tracker in self._trackers:
            tracker.begin(state.global_step)  # for an evaluation before or after training

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for tracker in self._trackers:
            if tracker.ends_with_training:
                tracker.end()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _names(args: RunArguments) -> list[str]:
    names = args.report_to or []
    return [names] if isinstance(names, str) else list(names)


@contextmanager
def _trackio_placed(args: RunArguments) -> Iterator[None]:
    """Have trackio take the run's folder where it is imported here, and no place is named.

    Raises:
        UsageError: it has taken that of another run.
    """
    if "trackio" not in _names(args) or os.environ.get("TRACKIO_DIR"):
        yield
        return
    folder = Path(args.output_dir or ".").absolute() / "trackio"
    if "trackio" in sys.modules:
        taken = Path(sys.modules["trackio"].utils.TRACKIO_DIR)
        if taken != folder and (taken.parent / IDS_NAME).exists():
            raise UsageError(
                f"report_to trackio: this process writes to {taken}, another run's, and trackio cannot change that. "
                "Set TRACKIO_DIR to one folder for all runs."
            )
        yield
        return
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TRACKIO_DIR"]
