"""Runs and their figures as a table in a file: CSV, JSON or Parquet, by its ending."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.ledger.filters import look_up
from foretune.ledger.run import Run
from foretune.ledger.store import Ledger

Table = Sequence[Mapping[str, Any]]


def run_table(runs: Sequence[Run], columns: Sequence[str] | None = None) -> Table:
    """Return a line for each run, with the columns named (as in conditions) or all there are."""
    return [{name: look_up(values, name) for name in columns or values} for values in (run.values() for run in runs)]


def point_table(ledger: Ledger, runs: Sequence[Run]) -> Table:
    """Return a line for every step of every run that has figures."""
    return [
        {"run": run.id, "name": run.name, "step": point.step, **point.figures}
        for run in runs
        for point in ledger.points(run.id)
    ]


def write_table(table: Table, path: Path) -> None:
    """Write a table; lines need not have the same columns.

    Raises:
        UsageError: the ending says no format, or the file cannot be written.
    """
    write = check_format(path)
    columns = list(dict.fromkeys(name for line in table for name in line))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(table, columns, path)
    except OSError as error:
        raise UsageError(f"--output {path} cannot be written: {error.strerror or error}.") from error


def check_format(path: Path) -> Callable[[Table, Sequence[str], Path], None]:
    """Return what writes a file of this ending.

    Raises:
        UsageError: nothing does.
    """
    if path.suffix not in _WRITERS:
        raise UsageError(f"--output {path}: give a name that ends in {', '.join(_WRITERS)}.")
    return _WRITERS[path.suffix]


def _write_csv(table: Table, columns: Sequence[str], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _as_text(value) for name, value in line.items()} for line in table)


def _write_json(table: Table, columns: Sequence[str], path: Path) -> None:
    lines = [{name: _as_json(value) for name, value in line.items()} for line in table]
    path.write_text(json.dumps(lines, indent=1, allow_nan=False) + "\n")


def _write_parquet(table: Table, columns: Sequence[str], path: Path) -> None:
    from datasets import Dataset

    # a column has one type: numbers or dates where all its values are, text otherwise
    content = {name: _one_type([line.get(name) for line in table]) for name in columns}
    Dataset.from_dict(content).to_parquet(path)


_WRITERS = {".csv": _write_csv, ".json": _write_json, ".parquet": _write_parquet}


def _one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return values if kinds == {int} else [None if value is None else float(value) for value in values]
    return values if kinds in ({bool}, {datetime}, {str}) else [None if v is None else str(_as_text(v)) for v in values]


def _as_text(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value
