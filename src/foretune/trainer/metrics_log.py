"""metrics.jsonl: a run's log, without times, so that equal runs have equal files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from foretune.journal import EvaluationRecord, Record, RollbackRecord, StepRecord
from foretune.trainer.health import Finding, ProjectedGrads

_NOTE = "diagnostics"
"""Key of a line that no record tells."""
_WARNING = "warning"
_ROLLBACK = "rollback"

Watch = Callable[[Record], Sequence[Finding]]
"""Says what a record shows, when it is given all of them in order (`HealthWatch.add`)."""


def log_line(records: Sequence[StepRecord], projected_grads: ProjectedGrads) -> dict[str, float]:
    """Summarise consecutive steps: mean loss, rms of the projected gradients (if any), the last lr and zo_eps."""
    slopes = [slope for record in records for slope in projected_grads(record)]
    return {
        "loss": fmean(record.loss for record in records),
        **({"projected_grad_rms": math.sqrt(fmean(slope * slope for slope in slopes))} if slopes else {}),
        "learning_rate": records[-1].lr,
        "zo_eps": records[-1].zo_eps,
        "rejected_steps": sum(not record.accepted for record in records),
    }


class MetricsLog:
    """Appends a line every `interval` steps, for every evaluation, rollback and finding; begun anew from the records.

    Only notes, which no record holds, are taken from the file that is there.
    """

    def __init__(
        self,
        path: Path,
        interval: int,
        projected_grads: ProjectedGrads,
        records: Sequence[Record] = (),
        watch: Watch = lambda record: (),
    ) -> None:
        self._path = path
        self._interval = interval
        self._projected_grads = projected_grads
        self._watch = watch
        self._waiting: list[StepRecord] = []
        num_steps = sum(isinstance(record, StepRecord) for record in records)
        self._old_notes = [(step, line) for step, line in _read_notes(path) if step < num_steps]
        path.write_text("".join(line for record in records for line in self._lines(record, self._watch(record))))

    def add(self, record: Record) -> Sequence[Finding]:
        """Take the next record of the run, in order, and return what the watch finds in it."""
        findings = self._watch(record)
        with self._path.open("a") as file:
            file.writelines(self._lines(record, findings))
        return findings

    def note(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of another kind, before the record of step `step` is added."""
        with self._path.open("a") as file:
            file.write(_to_line(step, {_NOTE: values}))

    def _lines(self, record: Record, findings: Sequence[Finding]) -> list[str]:
        if isinstance(record, StepRecord):
            lines = self._step_lines(record)
        elif isinstance(record, EvaluationRecord):
            lines = [_to_line(record.step, record.metrics)]
        else:
            lines = [_rollback_line(record)]
        return [*lines, *map(_finding_line, findings)]

    def _step_lines(self, record: StepRecord) -> list[str]:
        lines = []
        while self._old_notes and self._old_notes[0][0] <= record.step:
            lines.append(self._old_notes.pop(0)[1])
        self._waiting.append(record)
        num_steps = record.step + 1
        if num_steps % self._interval == 0:
            lines.append(_to_line(num_steps, log_line(self._waiting, self._projected_grads)))
            self._waiting.clear()
        return lines


class AppendedLog:
    """The log of a run without a journal: it is cut back to where the run goes on.

    Args:
        path: The file.
        num_bytes: Length of what is kept of it.
    """

    def __init__(self, path: Path, num_bytes: int = 0) -> None:
        self._path = path
        path.write_bytes(path.read_bytes()[:num_bytes] if path.exists() else b"")

    @property
    def num_bytes(self) -> int:
        """Length of the file."""
        return self._path.stat().st_size

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line after `step` steps."""
        with self._path.open("a") as file:
            file.write(_to_line(step, values))

    def note(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of another kind."""
        self.add(step, {_NOTE: values})

    def warn(self, finding: Finding) -> None:
        """Write a line for a finding."""
        with self._path.open("a") as file:
            file.write(_finding_line(finding))


def _finding_line(finding: Finding) -> str:
    values = asdict(finding)
    return _to_line(values.pop("step"), {_WARNING: values})


def _rollback_line(record: RollbackRecord) -> str:
    values = asdict(record)
    return _to_line(values.pop("step"), {_ROLLBACK: values})


def _to_line(step: int, values: Mapping[str, Any]) -> str:
    return json.dumps(_without_nan({"step": step, **values})) + "\n"


def _without_nan(value: Any) -> Any:
    """Replace numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _read_notes(path: Path) -> list[tuple[int, str]]:
    """Return steps and lines of the notes in a file, whose last line may be torn."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [(entry["step"], json.dumps(entry) + "\n") for entry in found if _NOTE in entry]
