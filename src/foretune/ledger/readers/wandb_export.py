"""W&B's exports: histories and lists of runs, as its pages, its API and the scripts around it write them.

History of one run:   JSON list, JSON lines or CSV of rows with `_step`.
Chart of many runs:   CSV with columns `Step` and `RUN - METRIC`.
List of runs:         JSON list or JSON lines of objects with `config` and `summary`, and perhaps `history`; CSV with
                      such columns, as W&B's own example writes it.
Table of a project:   CSV with `Name`, `State` and a column for every setting and summary figure.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from foretune.errors import UsageError
from foretune.ledger.readers.base import AbstractReader, Log, id_of
from foretune.ledger.readers.wandb_history import STATES, plain_config, points_of, summary_metrics

_Row = Mapping[str, Any]
_BETWEEN = " - "
_ENVELOPES = ("__MIN", "__MAX")
_NOT_FIGURES = ("name", "id", "state", "created", "runtime", "seed", "train_set_seed")


class WandbExport(AbstractReader):
    """A file with one run or many."""

    source: ClassVar[str] = "wandb_export"
    what: ClassVar[str] = "exports of W&B, .csv, .json or .jsonl"

    def knows(self, path: Path) -> bool:
        """Whether its ending and its first row are those of an export."""
        if not path.is_file() or path.suffix not in (".csv", ".json", ".jsonl"):
            return False
        try:
            return _kind(_rows(path)) is not None
        except UsageError:
            return False

    def read(self, path: Path) -> list[Log]:
        """Read every run."""
        rows = _rows(path)
        kind = _kind(rows)
        if kind == "chart":
            return self._read_chart(path, rows)
        if kind == "history":
            return [self._log(path, path.stem, history=rows)]
        if kind == "runs":
            return [self._read_run(path, row, index) for index, row in enumerate(rows, 1)]
        if kind == "table":
            return [self._read_table_row(path, row) for row in rows]
        raise UsageError(
            f"{path} is no export of W&B: neither a history (_step) nor runs (config and summary, or Name)."
        )

    def _log(self, path: Path, name: str, *, wandb_id: Any = None, history: Sequence[_Row] = (), **rest: Any) -> Log:
        points = points_of(history)
        return Log(
            id=f"wandb-{wandb_id}" if wandb_id else id_of(self.source, path.absolute(), name),
            name=name,
            source=self.source,
            points=points,
            steps=points[-1].step if points else None,
            output=str(path.absolute()),
            **rest,
        )

    def _read_run(self, path: Path, row: _Row, index: int) -> Log:
        config, summary, history = (
            _object(row.get(name), path, index, name) for name in ("config", "summary", "history")
        )
        return self._log(
            path,
            str(row.get("name") or row.get("id") or f"{path.stem}-{index}"),
            wandb_id=row.get("id"),
            history=history if isinstance(history, list) else [],
            status=STATES.get(str(row.get("state")), "imported"),
            config=plain_config(config or {}),
            metrics=summary_metrics(summary or {}),
            seconds=(summary or {}).get("_runtime"),
        )

    def _read_table_row(self, path: Path, row: _Row) -> Log:
        # the table does not say which column is a setting and which a figure: all are both
        values = {name: value for name, value in row.items() if value is not None}
        created = values.get("Created")
        return self._log(
            path,
            str(values["Name"]),
            wandb_id=values.get("ID"),
            status=STATES.get(str(values.get("State")), "imported"),
            config={name: value for name, value in values.items() if name not in ("Name", "ID", "State")},
            metrics=summary_metrics(
                {name: value for name, value in values.items() if name.lower() not in _NOT_FIGURES}
            ),
            started=_moment(created),
            seconds=values.get("Runtime") if isinstance(values.get("Runtime"), int | float) else None,
        )

    def _read_chart(self, path: Path, rows: Sequence[_Row]) -> list[Log]:
        histories: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            of_run: dict[str, dict[str, Any]] = {}
            for column, value in row.items():
                if _BETWEEN in column and not column.endswith(_ENVELOPES) and value is not None:
                    name, _, metric = column.rpartition(_BETWEEN)
                    of_run.setdefault(name, {"_step": _chart_step(row)})[metric] = value
            for name, figures in of_run.items():
                if figures.keys() - {"_step"}:
                    histories.setdefault(name, []).append(figures)
        return [self._log(path, name, history=history) for name, history in histories.items()]


def _kind(rows: Sequence[_Row]) -> str | None:
    """Say what the rows of an export are."""
    if not rows:
        return None
    first = rows[0]
    if any(_BETWEEN in name for name in first) and _chart_step(first) is not None:
        return "chart"
    if "summary" in first and "config" in first:
        return "runs"
    if "_step" in first:
        return "history"
    return "table" if "Name" in first and "State" in first else None


def _chart_step(row: _Row) -> Any:
    return next((row[name] for name in ("Step", "_step", "train/global_step", "global_step") if name in row), None)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            csv.field_size_limit(sys.maxsize)  # a whole summary may be in one field
            rows: Any = [
                {name: _value(value) for name, value in row.items() if name}
                for row in csv.DictReader(text.splitlines(keepends=True))
            ]
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except (ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from None
    rows = rows if isinstance(rows, list) else [rows]
    if not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} is no export of W&B: it should be a list of objects.")
    return rows


def _value(text: str | None) -> Any:
    """Read a field of a CSV file: nothing, a number, a switch or text."""
    if text is None or text == "":
        return None
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _object(value: Any, path: Path, index: int, name: str) -> Any:
    """Return an object that may be written as text: JSON, or as Python prints it."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, lambda text: ast.literal_eval(text.replace("nan", "None"))):
        try:
            return read(value)
        except (ValueError, SyntaxError):
            pass
    raise UsageError(f"{path}, run {index}: its {name} is no object: {value[:60]!r}.")


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
