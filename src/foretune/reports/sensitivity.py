"""How much learning rate and perturbation scale matter: dev figures over the grid that was tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from foretune.ledger import Run
from foretune.reports.choices import Cell, Choice, count_unfinished, criterion
from foretune.reports.naming import settings_of

ROWS, COLUMNS = "zo_eps", "lr"


@dataclass(frozen=True, slots=True)
class Square:
    """One place of a heat map.

    Attributes:
        value: Mean of the dev metric over seeds; None where no run has it.
        num_runs, num_unfinished: How many runs there are, and how many of them did not come to an end.
        chosen: Whether the leaderboard's settings are these.
    """

    value: float | None
    num_runs: int
    num_unfinished: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A dev figure of a cell by learning rate and perturbation scale, all other settings as chosen.

    Attributes:
        cell: Of which method.
        metric: What it shows.
        rates: Learning rates, ascending: the columns.
        scales: Perturbation scales, ascending: the rows; None for a method without one.
        squares: By row and column; None where nothing was tried.
    """

    cell: Cell
    metric: str
    rates: tuple[float, ...]
    scales: tuple[float | None, ...]
    squares: tuple[tuple[Square | None, ...], ...]

    @property
    def values(self) -> list[float]:
        """Every finite value."""
        return [square.value for row in self.squares for square in row if square and square.value is not None]


def heat_maps(choices: Sequence[Choice]) -> list[HeatMap]:
    """Return heat maps for every cell of which more than one learning rate or scale was tried.

    The first is of the figure that chose the settings; there is another where the leaderboard shows another one.
    """
    found = [
        heat_map
        for choice in choices
        if choice.selection is not None
        for metric in dict.fromkeys((criterion(choice.runs[0])[0].removeprefix("dev."), choice.metric))
        if (heat_map := _heat_map(choice, metric)) is not None
    ]
    return [heat_map for heat_map in found if len(heat_map.rates) * len(heat_map.scales) > 1]


def _heat_map(choice: Choice, metric: str) -> HeatMap | None:
    chosen = settings_of(choice.runs[0])
    grid: dict[tuple[float | None, float], list[Run]] = {}
    for run in choice.tried:
        settings = settings_of(run)
        differing = {name for name in {*settings, *chosen} if settings.get(name) != chosen.get(name)}
        if differing <= {ROWS, COLUMNS} and isinstance(settings.get(COLUMNS), int | float):
            grid.setdefault((settings.get(ROWS), settings[COLUMNS]), []).append(run)
    if not grid:
        return None
    rates = tuple(sorted({rate for _, rate in grid}))
    scales = tuple(sorted({scale for scale, _ in grid}, key=lambda scale: scale or 0.0))
    here = (chosen.get(ROWS), chosen.get(COLUMNS))
    squares = tuple(
        tuple(
            _square(grid[scale, rate], metric, chosen=(scale, rate) == here) if (scale, rate) in grid else None
            for rate in rates
        )
        for scale in scales
    )
    return HeatMap(choice.cell, metric, rates, scales, squares)


def _square(runs: Sequence[Run], metric: str, *, chosen: bool) -> Square:
    values = [run.metrics[f"dev.{metric}"] for run in runs if f"dev.{metric}" in run.metrics]
    values = [value for value in values if math.isfinite(value)]
    return Square(fmean(values) if values else None, len(runs), count_unfinished(runs), chosen)
