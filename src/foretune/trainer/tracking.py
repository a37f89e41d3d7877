"""A trainer with trackers: which can be had, and when their runs are opened and closed."""

from __future__ import annotations

import abc
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from foretune.errors import PrunedError, TrackerError, UsageError, message_of, near_misses
from foretune.trainer.arguments import RunArguments
from foretune.trainer.publishing import PublishingTrainer
from foretune.trainer.trackers import IDS_NAME, KINDS, AbstractTracker

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
        raise TrackerError(f"{option} wandb: {message_of(error)} WANDB_MODE=offline needs no server.") from error
    if not has_key:
        raise TrackerError(f"{option} wandb: there is no key: 'wandb login', or WANDB_MODE=offline for files alone.")


class TrackedTrainer(PublishingTrainer, abc.ABC):
    """A trainer whose trackers write into its folder, and go on with their own run when it is resumed."""

    def __init__(self, *, args: RunArguments, **kwargs: Any) -> None:
        check_trackers(_names(args), option="report_to")
        with _trackio_placed(args):
            super().__init__(args=args, **kwargs)
        callbacks = self.callback_handler.callbacks
        self._trackers = [KINDS[type(found)](found, args) for found in callbacks if type(found) in KINDS]
        if self._trackers:
            callbacks.insert(0, _Opening(self._trackers))

    def track(self, figures: Mapping[str, float]) -> None:
        """Send figures to the trackers, and to no other callback."""
        for tracker in self._trackers:
            tracker.begin(self.state.global_step)
            tracker.callback.on_log(self.args, self.state, self.control, logs=dict(figures), model=self.model)

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
        for tracker in self._trackers:
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
