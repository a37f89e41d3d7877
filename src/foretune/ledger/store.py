"""The ledger: a SQLite file with a row for every run, which any number of processes on one machine write to."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foretune.errors import LedgerError, UsageError
from foretune.ledger import schema
from foretune.ledger.filters import Condition, select
from foretune.ledger.run import Point, Run

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 60.0  # other processes hold the file for milliseconds; a network file system may take longer


class Ledger:
    """A row for every run and its figures by step.

        with Ledger.open("runs/runs.sqlite", create=True) as ledger:
            ledger.add(Run(id=new_id(), name="first", method="mezo"))
            best = ledger.query(["task=sst2", "lr<=1e-4", "state=finished"], sort="final.accuracy")[-1]
            losses = [(point.step, point.figures["loss"]) for point in ledger.points(best.id)]

    Every call is one transaction: what it wrote is there for other processes when it returns, and stays when this one
    is killed. Writers wait for each other. The file is in SQLite's write-ahead mode, whose locks do not reach over a
    network file system: give each machine its own ledger there. One object is used by one thread.

    Args:
        path: The file.
        connection: To it; `open` makes one.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: str | Path, *, create: bool = False) -> Self:
        """Open a ledger.

        Args:
            path: The file.
            create: Make it, and its folder, where it is missing.
        Raises:
            UsageError: there is no such file.
            LedgerError: it is no ledger, of a newer schema, or cannot be opened.
        """
        path = Path(path)
        if not create and not path.is_file():
            raise UsageError(f"There is no ledger {path}; 'foretune train --ledger {path}' makes one.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"Ledger {path}: its folder cannot be made: {error.strerror}.") from error
        with _ledger_errors(path):
            connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS, isolation_level=None)
        ledger = cls(path, connection)
        try:
            connection.row_factory = sqlite3.Row
            ledger._use_write_ahead()
            with ledger._writing() as cursor:
                schema.upgrade(cursor, path)
        except BaseException:
            connection.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    # ---------------------------------------------------------------- runs

    def add(self, run: Run) -> None:
        """Add a run.

        Raises:
            LedgerError: its id is there already, or the file cannot be written.
        """
        values = schema.to_columns({name: getattr(run, name) for name in schema.COLUMNS})
        with self._writing() as connection:
            if connection.execute("SELECT 1 FROM runs WHERE id = ?", [run.id]).fetchone():
                raise LedgerError(f"Ledger {self.path} has a run {run.id} already.")
            names = ", ".join(f'"{name}"' for name in values)
            marks = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(values.values()))

    def update(self, run_id: str, **changes: Any) -> None:
        """Change fields of a run, by their names in `Run`.

        Raises:
            LedgerError: there is no such run, or the file cannot be written.
        """
        values = schema.to_columns(changes)
        with self._writing() as connection:
            assignments = ", ".join(f'"{name}" = ?' for name in values)
            done = connection.execute(f"UPDATE runs SET {assignments} WHERE id = ?", [*values.values(), run_id])
            if done.rowcount == 0:
                raise LedgerError(f"Ledger {self.path} has no run {run_id}.")

    def find(self, run_id: str) -> Run | None:
        """Return the run with this id; None if there is none."""
        with _ledger_errors(self.path):
            row = self._connection.execute("SELECT * FROM runs WHERE id = ?", [run_id]).fetchone()
        return None if row is None else self._read([row])[0]

    def get(self, word: str) -> Run:
        """Return the run a person means: by its name, its id, or the beginning of its id.

        Raises:
            UsageError: no run or several fit.
        """
        with _ledger_errors(self.path):
            rows = self._connection.execute(
                "SELECT * FROM runs WHERE name = :word OR substr(id, 1, length(:word)) = :word ORDER BY started, id",
                {"word": word},
            ).fetchall()
        if exact := [row for row in rows if row["id"] == word]:
            rows = exact
        if not rows:
            raise UsageError(f"Ledger {self.path} has no run {word!r}; 'foretune runs list' shows all.")
        if len(rows) > 1:
            found = ", ".join(f"{row['id']} ({row['name']})" for row in rows[:10])
            raise UsageError(f"{word!r} may be any of {len(rows)} runs: {found}. Give the id.")
        return self._read(rows)[0]

    def query(
        self,
        where: Iterable[str | Condition] = (),
        *,
        sort: str | None = None,
        on_damage: Callable[[str], object] = logger.warning,
    ) -> list[Run]:
        """Return the runs that meet all conditions, oldest first.

        A row that cannot be read is left out, and a warning names it.

        Args:
            where: Such as ``"method=mezo"``, ``"lr<=1e-4"``, ``"final.accuracy>0.9"``; see `Condition`.
            sort: A name as in conditions; smallest first, runs without it in front.
            on_damage: Gets the words for each row that is left out.
        Raises:
            UsageError: a condition cannot be read, or no run at all has what it names.
        """
        with _ledger_errors(self.path):
            rows = self._connection.execute("SELECT * FROM runs ORDER BY started, id").fetchall()
        return select(self._read(rows, on_damage), where, sort=sort)

    def _read(self, rows: Sequence[sqlite3.Row], on_damage: Callable[[str], object] | None = None) -> list[Run]:
        """Return the runs of rows; without `on_damage` a row that cannot be read is an error."""
        found = []
        for row in rows:
            try:
                found.append(schema.from_row(row))  # pyrefly: ignore[bad-argument-type]  # rows read as mappings
            except ValueError as error:
                if on_damage is None:
                    raise LedgerError(f"Ledger {self.path}: run {row['id']} is damaged: {error}.") from None
                on_damage(f"Ledger {self.path}: run {row['id']} is left out: {error}.")
        return found

    # ---------------------------------------------------------------- figures by step

    def add_points(self, run_id: str, points: Iterable[Point]) -> None:
        """Add figures of a run; those that its steps have already are replaced, name by name.

        Raises:
            LedgerError: there is no such run, or the file cannot be written.
        """
        new: dict[int, dict[str, float]] = {}
        for point in points:
            new[point.step] = new.get(point.step, {}) | point.figures
        if not new:
            return
        with self._writing() as connection:
            if not connection.execute("SELECT 1 FROM runs WHERE id = ?", [run_id]).fetchone():
                raise LedgerError(f"Ledger {self.path} has no run {run_id}.")
            old = connection.execute(
                "SELECT step, figures FROM points WHERE run = ? AND step BETWEEN ? AND ?", [run_id, min(new), max(new)]
            )
            for row in old.fetchall():
                if row["step"] in new:
                    new[row["step"]] = schema.restore_figures(row["figures"]) | new[row["step"]]
            connection.executemany(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?)",
                [(run_id, step, schema.store_figures(figures)) for step, figures in new.items()],
            )

    def points(self, run_id: str) -> list[Point]:
        """Return the figures of a run, in the order of steps.

        Raises:
            LedgerError: a line of them is damaged.
        """
        with _ledger_errors(self.path):
            rows = self._connection.execute("SELECT step, figures FROM points WHERE run = ? ORDER BY step", [run_id])
            try:
                return [Point(row["step"], schema.restore_figures(row["figures"])) for row in rows]
            except (ValueError, TypeError) as error:
                raise LedgerError(f"Ledger {self.path}: figures of run {run_id} are damaged: {error}.") from None

    # ---------------------------------------------------------------- the file

    def _use_write_ahead(self) -> None:
        """Switch the file to write-ahead mode: SQLite does not wait by itself where several do so at once."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with _ledger_errors(self.path):
            while True:
                try:
                    self._connection.execute("PRAGMA journal_mode = WAL")
                    break
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            self._connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's one write lock; all or nothing of what is done becomes part of it."""
        with _ledger_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def _ledger_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(f"Ledger {path}: {error}.") from error
