"""Everything a report shows, before it is written in one format or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.ledger import Run
from foretune.reports.choices import Choice, choose
from foretune.reports.curves import Curve, diagnostic_curves, training_curves
from foretune.reports.leaderboard import Line, leaderboard
from foretune.reports.memory import Bar, memory_bars
from foretune.reports.notes import notes
from foretune.reports.published import Published, of_tasks
from foretune.reports.sensitivity import HeatMap, heat_maps
from foretune.reports.sources import Logs
from foretune.reports.targets import Reach, costs_to_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The parts of a report, see their modules; all are derived from `runs` and their figures.

    Attributes:
        title: Heading.
        notes: What to know before comparing, in sentences.
        skipped: What could not be read, in words.
    """

    title: str
    runs: list[Run]
    notes: list[str]
    skipped: list[str]
    choices: list[Choice]
    leaderboard: list[Line]
    curves: list[Curve]
    memory: list[Bar]
    costs: list[Reach]
    heat_maps: list[HeatMap]
    diagnostics: list[Curve]
    published: list[Published]


def build(logs: Logs, *, title: str = "Runs compared", targets: Sequence[float] = ()) -> Report:
    """Derive a report from runs.

    Args:
        logs: The runs and their figures.
        title: Heading.
        targets: Dev figures whose cost is shown, as shares of 1; default: see `targets.WAYS`.
    """
    choices = choose(logs.runs)
    lines = leaderboard(choices)
    curves, diagnostics = training_curves(choices, logs), diagnostic_curves(choices, logs)
    return Report(
        title=title,
        runs=logs.runs,
        notes=notes(logs.runs, choices),
        choices=choices,
        leaderboard=lines,
        curves=curves,
        memory=memory_bars(lines),
        costs=costs_to_target(choices, logs, targets),
        heat_maps=heat_maps(choices),
        diagnostics=diagnostics,
        published=of_tasks(sorted({choice.cell.task for choice in choices})),
        skipped=list(logs.skipped),
    )
