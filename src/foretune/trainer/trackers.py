"""Trackers: transformers' own callbacks, told where their files go and which run of theirs a resumed one continues.

Files lie in the run's folder unless the tracker's own variable names another place (TENSORBOARD_LOGGING_DIR, WANDB_DIR,
MLFLOW_TRACKING_URI, TRACKIO_DIR). A run that the user has begun with the tracker is logged to and never ended.
"""

from __future__ import annotations

import abc
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback

from foretune.errors import TrackerError, message_of
from foretune.trainer.arguments import RunArguments
from foretune.trainer.checkpoint import read_json, write_json

IDS_NAME = "trackers.json"
"""In a run's folder: what each tracker calls it."""


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
        self.callback = callback
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
        callback = self.callback
        if callback.tb_writer is not None:
            return
        if callback.logging_dir is None:
            callback.logging_dir = str(self._folder / self.name)
        callback.tb_writer = callback._SummaryWriter(log_dir=callback.logging_dir, purge_step=step + 1)

    def end(self, *, failed: bool = False) -> None:
        if self.callback.tb_writer is not None:
            self.callback.tb_writer.close()
            self.callback.tb_writer = None


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
                raise TrackerError(f"{self.name} cannot begin a run: {message_of(error)}") from error
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
        return self.callback._wandb.errors.Error

    def _is_open(self) -> bool:
        return self.callback._wandb.run is not None

    def _start(self) -> None:
        run = self.callback._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or self._args.project,
            name=self._run_name,
            dir=os.environ.get("WANDB_DIR") or str(self._folder),
            id=os.environ.get("WANDB_RUN_ID") or self._recorded_id(),
            resume=os.environ.get("WANDB_RESUME") or "allow",
        )
        self._record_id(run.id)

    def _finish(self, *, failed: bool) -> None:
        self.callback._wandb.finish(exit_code=int(failed))


class _MLflow(_ProcessWide):
    name: ClassVar[str] = "mlflow"
    ends_with_training: ClassVar[bool] = True  # as transformers' callback has it with a run that it has begun

    def __init__(self, callback: Any, args: RunArguments) -> None:
        super().__init__(callback, args)
        self._is_placed = False

    @property
    def _error(self) -> type[Exception]:
        return self.callback._ml_flow.exceptions.MlflowException

    def _is_open(self) -> bool:
        return self.callback._ml_flow.active_run() is not None

    def _start(self) -> None:
        mlflow = self.callback._ml_flow
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
        run_id = self._recorded_id()
        if run_id is None:
            return None
        try:
            run = self.callback._ml_flow.get_run(run_id)
        except self._error:
            return None
        return run_id if run.info.lifecycle_stage == "active" else None

    def _finish(self, *, failed: bool) -> None:
        mlflow = self.callback._ml_flow
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
        if self.callback._initialized:
            self.callback._trackio.finish()
            self.callback._initialized = False


KINDS: Mapping[type, type[AbstractTracker]] = {
    TensorBoardCallback: _TensorBoard,
    WandbCallback: _WandB,
    MLflowCallback: _MLflow,
    TrackioCallback: _Trackio,
}
"""By the callback of transformers."""
