"""metrics.jsonl: a run's log, a function of its journal and of nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from foretune.journal import EvaluationRecord, Record, StepRecord

ProjectedGrads = Callable[[StepRecord], Sequence[float]]
"""Tells which of a record's scalars are projected gradients (`Optimizer.projected_grads`)."""


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
    """Appends a line every `interval` steps and for every evaluation; begun anew from the records there are.

    No times are written, so equal runs have equal files.
    """

    def __init__(
        self, path: Path, interval: int, projected_grads: ProjectedGrads, records: Sequence[Record] = ()
    ) -> None:
        self._path = path
        self._interval = interval
        self._projected_grads = projected_grads
        self._waiting: list[StepRecord] = []
        path.write_text("".join(self._lines(records)))

    def add(self, record: Record) -> None:
        """Take the next record of the run, in order."""
        with self._path.open("a") as file:
            file.writelines(self._lines([record]))

    def _lines(self, records: Sequence[Record]) -> list[str]:
        lines = []
        for record in records:
            if isinstance(record, EvaluationRecord):
                lines.append(_to_line(record.step, record.metrics))
                continue
            self._waiting.append(record)
            num_steps = record.step + 1
            if num_steps % self._interval == 0:
                lines.append(_to_line(num_steps, log_line(self._waiting, self._projected_grads)))
                self._waiting.clear()
        return lines


def _to_line(step: int, values: dict[str, Any]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no nan
    return json.dumps({"step": step, **finite}) + "\n"
