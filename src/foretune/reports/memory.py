"""Peak memory of each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.reports.choices import Cell
from foretune.reports.leaderboard import Line


@dataclass(frozen=True, slots=True)
class Bar:
    """Peak memory of a cell, and the device it was measured on."""

    cell: Cell
    device: str
    num_bytes: int


def memory_bars(lines: Sequence[Line]) -> list[Bar]:
    """Return a bar for each line of the leaderboard that knows its memory, smallest first in every model and task."""
    bars = [
        Bar(line.cell, line.choice.runs[0].device or "", line.peak_memory_bytes)
        for line in lines
        if line.choice is not None and line.peak_memory_bytes is not None
    ]
    return sorted(bars, key=lambda bar: (bar.cell.place, bar.num_bytes))
