"""The tables of measurements in results: rows read and appended, and what commit they are of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from foretune.runs.csv_rows import append_rows, check_columns, read_rows
from foretune.runs.provenance import Provenance, current_commit, is_dirty
from foretune.runs.timing import Spread

__all__ = ["RESULTS", "Ledger", "Row", "append_rows", "check_columns", "commit_stamp", "read_rows"]

RESULTS = Path(__file__).resolve().parent / "results"


def commit_stamp() -> str:
    """Return the commit that is checked out, with a + where tracked files differ from it."""
    return current_commit() + ("+" if is_dirty() else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Provenance):
    """One figure of a benchmark without columns of its own.

    Attributes:
        shape, dtype: Of the model.
        batch: Rows.
        tokens: Length of a row (a range where rows differ).
        method: What is measured.
        what, unit: Of which quantity.
        value: Median of `n` measurements.
        low, high: Their 20 and 80 % quantiles.
        n: Measurements.
    """

    shape: str
    dtype: str
    batch: int
    tokens: str
    method: str
    what: str
    value: float
    unit: str
    low: float
    high: float
    n: int


class Ledger:
    """Collects the rows of one run of one shape and dtype."""

    def __init__(self, *, shape: str, dtype: str) -> None:
        self.rows: list[Row] = []
        self.shape = shape
        self.dtype = dtype
        self._provenance = Provenance.here()

    def add(self, method: str, what: str, spread: Spread, unit: str, *, batch: int = 0, tokens: str = "") -> None:
        """Note one figure."""
        settings = {"shape": self.shape, "dtype": self.dtype, "batch": batch, "tokens": tokens, "method": method}
        self.rows.append(Row(**asdict(self._provenance), **settings, what=what, unit=unit, **asdict(spread)))

    def append_to(self, path: Path) -> None:
        """Write the rows at the end of a CSV file, which is begun if it does not exist.

        Raises:
            UsageError: the file has other columns.
        """
        append_rows(path, self.rows, digits=6)
