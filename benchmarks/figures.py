"""The plots of docs/performance.md, drawn from rows of the ledgers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from foretune.runs import memory_bench
from foretune.runs.memory_case import INFERENCE
from foretune.runs.step_row import FLOOR, PUBLISHED, STEP, TO_FLOOR, Row
from foretune.runs.timing import PARTS

PART_COLOURS = {"forward": "C0", "noise": "C1", "update": "C2", "overhead": "C7"}
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Growth:
    """How time depends on one quantity.

    Attributes:
        field: Of a row.
        label: Of the axis.
        others: Fields that differ with it.
        floor: Whether the floor depends on it, and time is likely to grow with it as a power does.
    """

    field: str
    label: str
    others: tuple[str, ...]
    floor: bool


GROWTHS = (
    Growth("num_parameters", "million parameters", ("model",), floor=True),
    Growth("tokens", "tokens of a row", (), floor=True),
    Growth("batch", "rows", (), floor=True),
    Growth("num_directions", "directions a step (q)", (), floor=False),
    Growth("rank", "rank", (), floor=False),
)
LEAST_POINTS = 3
_LONGEST_STEP = 2.5  # what takes longer is written beside its bar, so that the others can be told apart
_PANELS_A_ROW = 3


def save(figure: Figure, path: Path) -> None:
    """Write a plot as SVG; the same rows give the same bytes."""
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "foretune", "svg.fonttype": "none"}):
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def step_breakdown(rows: Sequence[Row]) -> Figure | None:
    """Draw the parts of steps of one workload, in units of as many bare forwards; None without steps."""
    found: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: row.label):
        if row.method not in (FLOOR, PUBLISHED):
            found.setdefault(row.label, {})[row.what] = row
    if not found:
        return None
    figure = Figure(figsize=(8, 0.8 + 0.3 * len(found)))
    axes = figure.add_subplot()
    names = list(found)[::-1]
    left = [0.0] * len(names)
    for part in PARTS:
        widths = [
            figures[TO_FLOOR].value * figures[part].value / figures[STEP].value
            for figures in (found[name] for name in names)
        ]
        axes.barh(names, widths, left=left, color=PART_COLOURS[part], label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.axvline(1.0, color="black", linewidth=1, linestyle="--", label="floor")
    end = min(max(left), _LONGEST_STEP)
    for place, whole in enumerate(left):
        if whole > end:
            axes.text(end, place, f" {whole:.1f}", va="center", fontsize="small")
    axes.set(xlabel="time of a step, in units of as many bare forwards", xlim=(0, end))
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.08, 1.0))
    return figure


def memory(rows: Sequence[memory_bench.Row]) -> Figure | None:
    """Draw peaks of all cases as multiples of inference; None without rows."""
    panels: dict[str, list[memory_bench.Row]] = {}
    for row in rows:
        if not row.failure:
            panels.setdefault(f"{row.model}, {row.objective}, {row.batch_size} x {row.sequence_length}", []).append(row)
    if not panels:
        return None
    largest = max(map(len, panels.values()))
    figure = Figure(figsize=(4.6 * len(panels), 1.2 + 0.16 * largest))
    for index, (name, found) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), index + 1)
        cases = [row for row in found if row.method != INFERENCE and row.inference_bytes][::-1]
        axes.barh(
            [", ".join([row.method, row.tuning, *([row.engine] if row.engine == "in_place" else [])]) for row in cases],
            [row.peak_bytes / row.inference_bytes for row in cases],
            color=["C7" if row.engine == "-" else "C0" for row in cases],
        )
        axes.axvline(1.0, color="black", linewidth=1, linestyle="--")
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel("peak, x inference")
        axes.tick_params(axis="y", labelsize="x-small")
        axes.margins(y=0.01)
    figure.tight_layout()
    return figure


def growth(rows: Iterable[Row]) -> Figure | None:
    """Draw the time of a step against each quantity of which enough values were measured; None without any."""
    rows = [row for row in rows if row.what == STEP and row.method != PUBLISHED]
    panels = {kind: lines for kind in GROWTHS if (lines := growth_lines(rows, kind))}
    if not panels:
        return None
    num_rows = -(-len(panels) // _PANELS_A_ROW)
    figure = Figure(figsize=(4.2 * min(len(panels), _PANELS_A_ROW), 3.8 * num_rows))
    for index, (kind, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(num_rows, min(len(panels), _PANELS_A_ROW), index + 1)
        unit = 1e6 if kind.field == "num_parameters" else 1
        for label, points in lines.items():
            style: dict[str, Any] = {"color": "black", "linestyle": "--"} if label == FLOOR else {"marker": "o"}
            axes.plot([value / unit for value, _ in points], [seconds for _, seconds in points], label=label, **style)
        axes.set(xlabel=kind.label, ylabel="seconds a step", xscale="log", yscale="log" if kind.floor else "linear")
        ticks = sorted({value / unit for points in lines.values() for value, _ in points})
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        if not kind.floor:
            axes.set_ylim(0, None)
        axes.legend(fontsize="small")
    figure.tight_layout()
    return figure


def growth_lines(rows: Sequence[Row], kind: Growth) -> Mapping[str, list[Point]]:
    """Return the points of every contestant of which at least three values were measured, all else being equal.

    Of several such groups with one label, the one with most values is taken, the floor's first.
    """
    groups: dict[tuple[str, tuple[object, ...]], dict[float, float]] = {}
    for row in rows:
        value = getattr(row, kind.field)
        if not str(value).isdigit() or (row.method == FLOOR and not kind.floor):
            continue
        fixed = tuple(
            getattr(row, name) for name in ("model", *_FIXED) if name != kind.field and name not in kind.others
        )
        groups.setdefault((_label(row, kind), fixed), {})[float(value)] = row.value
    lines: dict[str, list[Point]] = {}
    for (label, _), points in groups.items():
        if len(points) >= max(LEAST_POINTS, len(lines.get(label, ())) + 1):
            lines[label] = sorted(points.items())
    return dict(sorted(lines.items(), key=lambda line: (line[0] != FLOOR, line[0])))


_FIXED = ("dtype", "device", "tuning", "objective", "batch", "tokens", "num_directions", "rank", "engine", "method")


def _label(row: Row, kind: Growth) -> str:
    words = [row.method, *([row.tuning] if row.tuning != "full" else []), *([row.engine] if row.engine != "-" else [])]
    if row.method == FLOOR:
        return FLOOR if row.tuning == "full" else f"{FLOOR}, {row.tuning}"
    if kind.field != "rank" and row.rank != "":
        words.append(f"rank {row.rank}")
    return ", ".join(words)
