"""The table of measurements: one row a figure, appended, never rewritten."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from timing import Spread

_REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure and everything one needs to judge it.

    `dirty` is 1 if tracked files differed from `commit`; `machine` is the processor's model, `threads` those
    of PyTorch; `tokens` the length of a sequence (a range where rows differ); `low` and `high` are the 20 and
    80 % quantiles of `n` measurements (nan where only the median was kept), `value` their median.
    """

    date: str
    commit: str
    dirty: int
    machine: str
    cores: int
    threads: int
    python: str
    torch: str
    transformers: str
    foretune: str
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
        self._common = {
            "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "commit": current_commit(),
            "dirty": int(is_dirty()),
            "machine": _cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "foretune")},
            "shape": shape,
            "dtype": dtype,
        }

    def add(self, method: str, what: str, spread: Spread, unit: str, *, batch: int = 0, tokens: str = "") -> None:
        """Note one figure."""
        self.rows.append(
            Row(
                **self._common,
                batch=batch,
                tokens=tokens,
                method=method,
                what=what,
                unit=unit,
                **asdict(spread),
            )
        )

    def append_to(self, path: Path) -> None:
        """Write the rows at the end of a CSV file, which is begun if it does not exist.

        Raises:
            ValueError: the file has other columns.
        """
        columns = [field.name for field in fields(Row)]
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        if not is_new:
            check_columns(path, columns)
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerows({name: _short(value) for name, value in asdict(row).items()} for row in self.rows)


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse a file of other columns.

    Raises:
        ValueError: naming the file.
    """
    with path.open(newline="") as file:
        found = next(csv.reader(file), [])
    if found != list(columns):
        raise ValueError(f"{path} has columns {', '.join(found)}; expected {', '.join(columns)}.")


def current_commit() -> str:
    """Return the commit that is checked out, by its first digits."""
    return _git("rev-parse", "--short", "HEAD") or "unknown"


def is_dirty() -> bool:
    """Return whether tracked files differ from the commit."""
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or not a checkout
        return ""
    return result.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()
