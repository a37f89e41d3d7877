"""The ledger's tables, by version, and how a row becomes a run."""

from __future__ import annotations

import json
import math
import sqlite3
import typing
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from foretune.errors import LedgerError
from foretune.ledger.run import Run

APPLICATION_ID = 0x46544C47
"""In the head of the file ("FTLG"), so that another program's database is not taken for a ledger."""

VERSIONS = (
    """
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL, source TEXT NOT NULL,
        method TEXT, task TEXT, tuning TEXT, model TEXT, seed INTEGER, train_set_seed INTEGER,
        config TEXT NOT NULL, model_hash TEXT, data_hash TEXT, versions TEXT NOT NULL, "commit" TEXT,
        device TEXT, host TEXT, pid INTEGER, started TEXT, heartbeat TEXT, ended TEXT,
        steps INTEGER NOT NULL, total_steps INTEGER, metrics TEXT NOT NULL,
        seconds REAL, seconds_per_step REAL, peak_memory_bytes INTEGER, forward_passes INTEGER,
        backward_passes INTEGER, study TEXT, trial INTEGER, suite TEXT, output TEXT, error TEXT
    );
    CREATE TABLE points (
        run TEXT NOT NULL REFERENCES runs (id), step INTEGER NOT NULL, figures TEXT NOT NULL,
        PRIMARY KEY (run, step)
    ) WITHOUT ROWID;
    """,
)
"""What makes each version of the schema from the one before; settings and figures are JSON, times ISO 8601."""

COLUMNS = tuple(field.name for field in fields(Run))
_HINTS = typing.get_type_hints(Run)
_SETTINGS = ("config", "versions")


def upgrade(connection: sqlite3.Connection, path: object) -> None:
    """Bring a database, which may be new, to the newest version; to be called in a transaction.

    Raises:
        LedgerError: it is another program's, or that of a newer foretune.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (num_tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if num_tables and application != APPLICATION_ID:
        raise LedgerError(f"{path} is another program's database, no ledger of runs: choose another --ledger.")
    if version > len(VERSIONS):
        raise LedgerError(
            f"Ledger {path} has schema version {version}, this foretune knows up to {len(VERSIONS)}: use the newer one."
        )
    for number in range(version, len(VERSIONS)):
        for statement in filter(str.strip, VERSIONS[number].split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {number + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def to_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a run as SQLite stores them."""
    return {name: _store(name, value) for name, value in values.items()}


def from_row(row: Mapping[str, Any]) -> Run:
    """Return the run of a row; ValueError, naming the column, where it holds what no run has."""
    return Run(**{name: _restore(name, row[name]) for name in COLUMNS})


def store_figures(figures: Mapping[str, float]) -> str:
    """Return figures as JSON, which has no nan or infinity: null stands for them."""
    return json.dumps({name: value if math.isfinite(value) else None for name, value in figures.items()})


def restore_figures(text: str) -> dict[str, float]:
    """Read what `store_figures` wrote; ValueError where it is something else."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no object of figures")
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def _store(name: str, value: Any) -> Any:
    if name == "metrics":
        return store_figures(value)
    if name in _SETTINGS:
        return json.dumps(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _restore(name: str, value: Any) -> Any:
    hint = _HINTS[name]
    try:
        if name == "metrics":
            return restore_figures(value)
        if name in _SETTINGS:
            found = json.loads(value)
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
            return found
        if datetime in typing.get_args(hint) and value is not None:
            return datetime.fromisoformat(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its {name} cannot be read ({error})") from None
    known = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        if value not in known:
            raise ValueError(f"its {name} is {value!r}")
    elif not isinstance(value, known or hint) and not (float in known and isinstance(value, int)):
        raise ValueError(f"its {name} is {value!r}")
    return value
