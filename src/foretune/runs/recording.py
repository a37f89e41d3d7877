"""A run writes itself into the ledger while it goes on."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from foretune.errors import DivergedError, LedgerError, PrunedError
from foretune.ledger import Ledger, Point, Run, Status, find_ledger, new_id, now
from foretune.ledger.metrics_file import numbers, read_points
from foretune.ledger.run import HEARTBEAT
from foretune.liveness import beating
from foretune.runs.provenance import Provenance
from foretune.trainer.base import METRICS_NAME, AbstractTrainer

logger = logging.getLogger(__name__)

ID_NAME = "run-id"
"""In a run's folder: which row of a ledger is its own."""

_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a run is part of.

    Attributes:
        study: Name of a sweep.
        trial: Its number there.
        suite: Name of a suite.
    """

    study: str | None = None
    trial: int | None = None
    suite: str | None = None


class Recording:
    """The row of one run, kept up to date; without a ledger nothing is written.

    A ledger that cannot be written to while the run goes on is worth a warning, since the run's folder has it all;
    what was not written is tried again. At the end of the run it is an error.

    Args:
        ledger: Open, or None.
        run: The row as it is.
        output: The run's folder.
    """

    def __init__(self, ledger: Ledger | None, run: Run, output: Path) -> None:
        self.run = run
        self._ledger = ledger
        self.metrics_path = output / METRICS_NAME
        self._seconds_before = run.seconds or 0.0
        self._started = time.perf_counter()
        self._unwritten: dict[str, Any] = {}
        self._points: list[Point] = []
        self._last_write = 0.0
        self._evaluations: dict[int, dict[str, float]] = {}

    @property
    def seconds(self) -> float:
        """Wall clock of the run, with the parts before an interruption."""
        return self._seconds_before + time.perf_counter() - self._started

    def note(self, **changes: Any) -> None:
        """Change fields of the row, soon."""
        self.run = replace(self.run, **changes)
        self._unwritten |= changes

    def watch(self, trainer: AbstractTrainer) -> TrainerCallback:
        """Return what follows the training of a trainer."""
        return _Watch(self, trainer)

    def add(self, point: Point) -> None:
        """Take a line of metrics.jsonl, with clocks."""
        evaluation = {name: value for name, value in point.figures.items() if name.startswith("eval_")}
        if evaluation:
            self._evaluations[point.step] = evaluation
        self._points.append(point)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write what came out.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        metrics = {name: value for name, value in results["metrics"].items() if value}
        if results["final_model"] is not None:
            evaluation = self._evaluations.get(results["final_model"]["step"], {})
            metrics["dev"] = {name.removeprefix("eval_"): value for name, value in evaluation.items()}
        self.note(
            metrics=numbers(metrics),
            seconds_per_step=results["seconds_per_step"],
            peak_memory_bytes=results["peak_memory_bytes"],
        )
        self._end("finished")
        try:
            self._write()
        except LedgerError as error:
            raise LedgerError(f"{error} The run is finished, and its results are in {self.run.output}.") from error

    def fail(self, error: BaseException) -> None:
        """Write how a run ended that did not finish."""
        text = " ".join(str(error).split())
        if isinstance(error, KeyboardInterrupt):
            self._end("stopped")
        elif isinstance(error, PrunedError):
            self._end("pruned", text)
        elif isinstance(error, DivergedError):
            self._end("diverged", text)
        else:
            self._end("failed", f"{type(error).__name__}: {text}")
        self.write()

    def write(self, *, at_once: bool = True) -> None:
        """Bring the row up to date, or not yet where that was done a moment ago."""
        if not at_once and time.perf_counter() - self._last_write < _SECONDS_BETWEEN_WRITES:
            return
        try:
            self._write()
        except LedgerError as error:
            logger.warning("%s It will be tried again.", error)

    def _end(self, status: Status, error: str | None = None) -> None:
        self.note(status=status, error=error, ended=now(), seconds=self.seconds)

    def _write(self) -> None:
        self._last_write = time.perf_counter()
        if self._ledger is not None:
            self._ledger.add_points(self.run.id, self._points)
            self._ledger.update(self.run.id, **self._unwritten, heartbeat=now())
        self._points, self._unwritten = [], {}


class _Watch(TrainerCallback):
    """Takes the lines of metrics.jsonl as they are written, adds what was spent up to there, and keeps the row true."""

    def __init__(self, recording: Recording, trainer: AbstractTrainer) -> None:
        self._recording = recording
        self._trainer = trainer
        self._place = 0  # in metrics.jsonl
        self._passes = (0, 0)  # forwards and backwards of the steps before `_counted`
        self._counted = 0
        self._line_is_due = False
        self._last_step = recording.run.steps  # with clocks; an interrupted run has them up to there

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note which weights the run began with; one that went back takes the lines from there on again."""
        self._place = 0
        if state.global_step < self._counted:
            self._passes, self._counted = (0, 0), 0
            self._last_step = state.global_step
        self._recording.note(model_hash=self._trainer.base_weights_hash, total_steps=state.max_steps)
        self._recording.write()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the lines that were written since."""
        self._take_lines()
        self._keep_row(state.global_step, at_once=False)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Expect a line, which is written when all callbacks know the figures."""
        self._line_is_due = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the figures of an evaluation, now that there is their line."""
        if self._line_is_due:
            self._take_lines()
            self._keep_row(state.global_step, at_once=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what is left."""
        self._take_lines()
        self._keep_row(state.global_step, at_once=True)

    def _take_lines(self) -> None:
        self._line_is_due = False
        seconds = self._recording.seconds
        for point in self._new_points():
            if point.step > self._last_step:
                self._last_step = point.step
                forwards, backwards = self._passes_before(point.step)
                spent = {"seconds": seconds, "forward_passes": forwards, "backward_passes": backwards}
                point = Point(point.step, point.figures | spent)
            self._recording.add(point)

    def _keep_row(self, step: int, *, at_once: bool) -> None:
        forwards, backwards = self._passes_before(step)
        self._recording.note(
            steps=step, seconds=self._recording.seconds, forward_passes=forwards, backward_passes=backwards
        )
        self._recording.write(at_once=at_once)

    def _new_points(self) -> list[Point]:
        with self._recording.metrics_path.open("rb") as file:
            file.seek(self._place)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._place += len(whole)
        return list(read_points(whole.decode().splitlines(keepends=True)))

    def _passes_before(self, step: int) -> tuple[int, int]:
        """Return the passes of all steps before `step`, made by this process or not; steps are asked for in order."""
        for index in range(self._counted, step):
            forwards, backwards = self._trainer.num_passes_at(index)
            self._passes = self._passes[0] + forwards, self._passes[1] + backwards
        self._counted = max(self._counted, step)
        return self._passes


@contextmanager
def recording(ledger: str | None, run: Run, output: Path, *, resume: bool, device: torch.device) -> Iterator[Recording]:
    """Keep a row for a run while it goes on; a run that is resumed goes on in its own.

    Args:
        ledger: Path, "none", or None for $FORETUNE_LEDGER and else `runs.sqlite` beside the run's folder.
        run: What is known of it beforehand.
        output: Its folder, which is there.
        resume: Whether it may have a row already.
        device: Where it runs.
    Raises:
        LedgerError: the ledger cannot be opened.
    """
    opened = _open(ledger, output)
    if opened is None:
        yield Recording(None, run, output)
        return
    run = replace(run, **_circumstances(device), output=str(output.absolute()))
    with opened:
        row = _begin(opened, run, output / ID_NAME, resume=resume)
        kept = Recording(opened, row, output)
        with _heartbeat(opened.path, row.id):
            try:
                yield kept
            except BaseException as error:
                kept.fail(error)
                raise


def check_ledger(ledger: str | None) -> None:
    """Open the ledger that the option or $FORETUNE_LEDGER names, if one does, and close it.

    Raises:
        LedgerError: it cannot be opened.
    """
    if (path := find_ledger(ledger, None)) is not None:
        Ledger.open(path, create=True).close()


def record_evaluations(ledger: str | None, runs: list[Run], device: torch.device) -> None:
    """Add the rows of evaluations, where a ledger was named by the option or $FORETUNE_LEDGER.

    Raises:
        LedgerError: it cannot be written.
    """
    path = find_ledger(ledger, None)
    if path is not None:
        with Ledger.open(path, create=True) as opened:
            for run in runs:
                opened.add(replace(run, id=new_id(), **_circumstances(device)))


def _open(option: str | None, output: Path) -> Ledger | None:
    """Open the ledger; none is kept where nobody named one and the folder beside the run cannot be written to."""
    path = find_ledger(option, output.absolute().parent)
    if path is None:
        return None
    try:
        return Ledger.open(path, create=True)
    except LedgerError as error:
        if find_ledger(option, None) is not None:
            raise
        logger.warning("No ledger is kept. %s Name another place: --ledger FILE.", error)
        return None


def _begin(ledger: Ledger, run: Run, id_path: Path, *, resume: bool) -> Run:
    """Write the row of a run that begins or goes on, and return it."""
    run_id = id_path.read_text().strip() if resume and id_path.exists() else new_id()
    id_path.write_text(f"{run_id}\n")
    before = ledger.find(run_id)
    if before is None:
        row = replace(run, id=run_id)
        ledger.add(row)
        return row
    # what it had spent and measured stays; the rest is as this part of the run has it
    kept = {name: getattr(before, name) for name in ("id", "started", "steps", "metrics", "seconds", "model_hash")}
    row = replace(run, **kept)
    ledger.update(run_id, **{name: value for name, value in asdict(row).items() if name != "id"})
    return row


def _circumstances(device: torch.device) -> dict[str, Any]:
    here = Provenance.here(device)
    threads = f", {here.threads} threads" if device.type == "cpu" else ""
    return {
        "versions": {name: getattr(here, name) for name in ("foretune", "python", "torch", "transformers")},
        "commit": f"{here.commit}{'+' if here.dirty else ''}" or None,
        "device": f"{here.machine}{threads}",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": now(),
        "heartbeat": now(),
    }


def _heartbeat(path: Path, run_id: str) -> AbstractContextManager[None]:
    """Give signs of life from a thread of its own, whatever the run is doing."""

    def beat() -> bool:
        try:
            with Ledger.open(path) as ledger:
                ledger.update(run_id, heartbeat=now())
        except LedgerError as error:
            logger.warning("%s", error)
        return True

    return beating(beat, seconds=HEARTBEAT.total_seconds(), name="foretune-heartbeat")
