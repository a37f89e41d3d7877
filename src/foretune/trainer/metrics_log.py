"""metrics.jsonl: a run's log, a function of its journal and of nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from foretune.journal import EvaluationRecord, Record, StepRecord


def log_line(records: list[StepRecord]) -> dict[str, float]:
    """Summarise consecutive steps: mean loss, root mean square of the projected gradients, the last lr and zo_eps."""
    scalars = [scalar for record in records for scalar in record.scalars]
    return {
        "loss": fmean(record.loss for record in records),
        "projected_grad_rms": math.sqrt(fmean(scalar * scalar for scalar in scalars)),
        "learning_rate": records[-1].lr,
        "zo_eps": records[-1].zo_eps,
        "rejected_steps": sum(not record.accepted for record in records),
    }


class MetricsLog:
    """Appends a line every `interval` steps and for every evaluation; feed it the journal to rebuild the file.

    No times are written, so equal runs have equal files.
    """

    def __init__(self, path: Path, interval: int, records: Iterable[Record] = ()) -> None:
        self._path = path
        self._interval = interval
        self._waiting: list[StepRecord] = []
        path.write_text("")
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take the next record of the run, in order."""
        if isinstance(record, EvaluationRecord):
            self._write({"step": record.step, **record.metrics})
            return
        self._waiting.append(record)
        step = record.step + 1
        if step % self._interval == 0:
            self._write({"step": step, **log_line(self._waiting)})
            self._waiting.clear()

    def _write(self, line: dict[str, Any]) -> None:
        line = {key: value if math.isfinite(value) else None for key, value in line.items()}  # JSON has no nan
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
