"""What a report is made of: runs of ledgers and of run folders, with their figures by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foretune.errors import LedgerError, UsageError, message_of
from foretune.ledger import Ledger, Point, Run, Status, find_existing_ledger, select
from foretune.ledger.location import LEDGER_NAME
from foretune.ledger.metrics_file import numbers, read_points
from foretune.runs.output import CONFIG_NAME, RESULTS_NAME
from foretune.runs.recording import ID_NAME
from foretune.trainer.base import METRICS_NAME


@dataclass(slots=True)
class Logs:
    """Runs, where their figures are, and what could not be read.

    Attributes:
        runs: Oldest first in each source; one that is in several sources is taken from the first.
        skipped: What was left out and why, in words.
    """

    runs: list[Run] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _places: dict[str, Path] = field(default_factory=dict)
    _points: dict[str, tuple[Point, ...]] = field(default_factory=dict)

    def points(self, run: Run) -> tuple[Point, ...]:
        """Return the figures of a run, in the order of steps; none where they are damaged."""
        if run.id not in self._points:
            try:
                self._points[run.id] = tuple(_read_figures(self._places[run.id], run.id))
            except (LedgerError, ValueError, TypeError, KeyError) as error:
                self.skipped.append(f"Figures of run {run.name} are left out: {message_of(error)}")
                self._points[run.id] = ()
        return self._points[run.id]

    def _add(self, runs: Sequence[Run], place: Path) -> None:
        for run in runs:
            if self._places.setdefault(run.id, place) is place:
                self.runs.append(run)


def read_logs(paths: Sequence[str], where: Sequence[str] = ()) -> Logs:
    """Read runs.

    Args:
        paths: Ledgers, folders with one, run folders, or folders of run folders; none: the ledger that other commands
            find by themselves.
        where: Conditions that runs meet; see `Condition`.
    Raises:
        UsageError: a path is not there or has no runs, a condition cannot be read, or no run is left.
        LedgerError: a file is no ledger.
    """
    logs = Logs()
    for path in map(Path, paths) if paths else [find_existing_ledger(None)]:
        _read_path(path, logs)
    found = len(logs.runs)
    logs.runs = select(logs.runs, where)
    if not logs.runs:
        named = " ".join(map(str, paths)) or "The ledger"
        if found:
            raise UsageError(f"None of the {found} runs meets {' '.join(where)}: there is nothing to report.")
        skipped = f" Left out: {' '.join(logs.skipped)}" if logs.skipped else ""
        raise UsageError(f"{named}: no run is there to report; 'foretune train' leaves one.{skipped}")
    return logs


def _read_path(path: Path, logs: Logs) -> None:
    if path.is_file():
        _read_ledger(path, logs)
    elif (path / LEDGER_NAME).is_file():
        _read_ledger(path / LEDGER_NAME, logs)
    elif folders := [folder for folder in (path, *_folders(path)) if (folder / CONFIG_NAME).is_file()]:
        for folder in folders:
            _read_folder(folder, logs)
    elif path.is_dir():
        raise UsageError(
            f"{path}: neither a run ({CONFIG_NAME}), nor a folder of runs, nor one with a ledger ({LEDGER_NAME})."
        )
    else:
        raise UsageError(f"{path}: there is no such file or folder. Give a ledger or folders of runs.")


def _folders(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir()) if path.is_dir() else []


def _read_ledger(path: Path, logs: Logs) -> None:
    with Ledger.open(path) as ledger:
        logs._add(ledger.query(on_damage=logs.skipped.append), path)


def _read_folder(folder: Path, logs: Logs) -> None:
    """Take a run from the ledger beside its folder, which knows its costs, or else from its own files."""
    ledger_path = folder.absolute().parent / LEDGER_NAME
    run_id = (folder / ID_NAME).read_text().strip() if (folder / ID_NAME).is_file() else None
    if run_id and ledger_path.is_file():
        with Ledger.open(ledger_path) as ledger:
            run = ledger.find(run_id)
        if run is not None:
            logs._add([run], ledger_path)
            return
    try:
        logs._add([_run_of(folder, run_id)], folder)
    except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        logs.skipped.append(f"Run folder {folder} is left out: {message_of(error)}.")


def _run_of(folder: Path, run_id: str | None) -> Run:
    """Read config.yaml, and results.json where the run came to its end."""
    finished = (folder / RESULTS_NAME).is_file()
    results: dict[str, Any] = json.loads((folder / RESULTS_NAME).read_text()) if finished else {}
    config = results.get("config") or yaml.safe_load((folder / CONFIG_NAME).read_text())
    status: Status = "finished" if finished else "stopped"
    points = list(_read_figures(folder, ""))
    metrics = {name: value for name, value in results.get("metrics", {}).items() if value}
    if chosen := results.get("final_model"):
        metrics["dev"] = {
            name.removeprefix("eval_"): value
            for point in points
            if point.step == chosen["step"]
            for name, value in point.figures.items()
            if name.startswith("eval_")
        }
    return Run(
        id=run_id or hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:12],
        name=folder.absolute().name,
        status=status,
        method=config["method"]["name"],
        task=results.get("task", config["task"]),
        tuning=config["tuning"]["name"],
        model=config["model"],
        seed=config["seed"],
        train_set_seed=config["train_set_seed"],
        config=config,
        steps=config["steps"] if finished else max((point.step for point in points), default=0),
        total_steps=config["steps"],
        metrics=numbers(metrics),
        seconds_per_step=results.get("seconds_per_step"),
        peak_memory_bytes=results.get("peak_memory_bytes"),
        output=str(folder.absolute()),
    )


def _read_figures(place: Path, run_id: str) -> Iterator[Point]:
    """Yield what a ledger, or the metrics.jsonl of a run folder, has by step."""
    if place.is_file():
        with Ledger.open(place) as ledger:
            yield from ledger.points(run_id)
    elif (place / METRICS_NAME).is_file():
        merged: dict[int, dict[str, float]] = {}
        for point in read_points((place / METRICS_NAME).read_text().splitlines(keepends=True)):
            merged.setdefault(point.step, {}).update(point.figures)
        yield from (Point(step, figures) for step, figures in sorted(merged.items()))
