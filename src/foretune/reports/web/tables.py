"""The tables of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from foretune.ledger.compare import Spread
from foretune.reports.choices import Cell, is_share, show
from foretune.reports.colours import look
from foretune.reports.leaderboard import Line
from foretune.reports.naming import duration, figure_name, memory, passes
from foretune.reports.published import EVIDENCE, UNITS, Published
from foretune.reports.report import Report
from foretune.reports.targets import Reach
from foretune.reports.web.elements import PANEL, filter_attributes, method_head, table, td, unit


def leaderboard_table(lines: Sequence[Line]) -> str:
    """Return the leaderboard of all models and tasks."""
    if not lines:
        return "<p>No run has test figures.</p>"
    varying = [name for name in PANEL if len({getattr(line.cell, name) for line in lines}) > 1]
    metrics = {line.metric for line in lines}
    shown = unit(next(iter(metrics))) if len(metrics) == 1 else "test"
    heads = [
        ("method", ""),
        *((name, "") for name in varying),
        (f"test {shown}" if len(metrics) == 1 else "test", "number"),
        ("runs", "wide"),
        ("gain", "number"),
        ("dev", "number"),
        ("selected", ""),
        ("tried", "number"),
        ("passes", "number"),
        ("time", "number"),
        ("memory", "number"),
        ("published", "number"),
    ]
    scales = {
        line.cell.place: _scale(
            [value for other in lines if other.cell.place == line.cell.place for value in _ends(other)]
        )
        for line in lines
    }
    rows = [_line(line, varying, scales[line.cell.place]) for line in lines]
    fixed = ", ".join(f"{name} {getattr(lines[0].cell, name)}" for name in PANEL if name not in varying)
    caption = (
        f"{escape(fixed)}{'. ' if fixed else ''}Test: mean ± sample standard deviation over seeds, each run a dot; "
        "gain: over the model before tuning. Selected: on dev rows, among as many settings as were tried. Passes: "
        "forward passes of a run, a backward counts as two. Published numbers, in italics with the model they are of "
        "where that is another, were not measured here: <sup>P</sup> read in the paper, <sup>S</sup> in another's "
        "table or a note, <sup>F</sup> off a figure."
    )
    return table("leaderboard", heads, rows, caption=caption)


def _line(line: Line, varying: Sequence[str], scale: tuple[float, float]) -> str:
    choice = line.choice
    cells = [method_head(line.cell.method)]
    cells += [td(escape(getattr(line.cell, name))) for name in varying]
    cells += [
        td(_spread(line.test, line.metric), line.test.mean, kind="number main"),
        td(_dots(line, scale), kind="wide", title=_seed_list(line)),
        td("" if line.gain is None else _signed(line.gain, line.metric), line.gain, kind="number"),
        td(_spread(line.dev, line.metric), line.dev.mean if line.dev else None, kind="number"),
    ]
    if choice is None:
        cells += [td("")] * 5
    else:
        failed = f" <small>{choice.num_unfinished} failed</small>" if choice.num_unfinished else ""
        mark = '<span class="mark">!</span>' if choice.problems else ""
        tried = f"{choice.num_settings} settings, {len(choice.tried)} runs, {choice.num_unfinished} not finished"
        cells += [
            td(f"{escape(choice.settings_text())}{mark}", kind="settings", title="\n".join(choice.problems)),
            td(f"{choice.num_settings}{failed}", choice.num_settings, kind="number", title=tried),
            td("" if line.passes is None else passes(line.passes), line.passes, kind="number"),
            td("" if line.seconds is None else duration(line.seconds), line.seconds, kind="number"),
            td(_bytes(line.peak_memory_bytes), line.peak_memory_bytes, kind="number"),
        ]
    cells.append(_beside(line))
    reference = "" if choice else ' class="reference"'
    return f"<tr{reference}{filter_attributes(line.cell)}>{''.join(cells)}</tr>"


def _beside(line: Line) -> str:
    if not line.published:
        return td("")
    first = line.published[0]
    model = "" if first.model == line.cell.model else f"<small>{escape(first.model)}</small> "
    more = f" <small>+{len(line.published) - 1}</small>" if len(line.published) > 1 else ""
    title = "\n".join(f"{number.text} {number.model}: {number.origin}" for number in line.published)
    text = f"{model}{escape(first.text)}<sup>{first.evidence}</sup>{more}"
    return td(text, first.value, kind="number published", title=title)


def _seed_list(line: Line) -> str:
    return f"{len(line.seeds)} runs: {', '.join(show(value, line.metric) for value in line.seeds)}"


def _ends(line: Line) -> list[float]:
    return [value for value in line.seeds if math.isfinite(value)]


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.01
    return low - margin, high + margin


def _dots(line: Line, scale: tuple[float, float]) -> str:
    """Draw the figure of each run as a dot, and the mean as a stroke, on the scale of model and task."""

    def place(value: float) -> str:
        return f"{100 * (value - scale[0]) / (scale[1] - scale[0]):.2f}%"

    hue = f"var(--hue-{look(line.cell.method).hue})" if line.choice else "var(--faint)"
    dots = "".join(f'<circle cx="{place(value)}" cy="9" r="3.5"/>' for value in _ends(line))
    mean = place(line.test.mean)
    return (
        f'<svg class="dots" height="18" role="img" aria-label="{escape(_seed_list(line))}" style="color:{hue}">'
        f'<line class="axis" x1="0" x2="100%" y1="9" y2="9"/>{dots}'
        f'<line class="mean" x1="{mean}" x2="{mean}" y1="2" y2="16"/></svg>'
    )


def _spread(spread: Spread | None, metric: str) -> str:
    """Write a mean with its deviation, so that the decimals of a column stand below each other."""
    if spread is None:
        return ""
    deviation = "" if math.isnan(spread.deviation) else f"± {show(spread.deviation, metric)}"
    return f'{show(spread.mean, metric)}<span class="deviation">{deviation}</span>'


def costs_tables(costs: Sequence[Reach]) -> str:
    """Return a table for each model and task; empty without any."""
    if not costs:
        return ""
    tables = []
    for model, task in dict.fromkeys(reach.cell.place for reach in costs):
        own = [reach for reach in costs if reach.cell.place == (model, task)]
        targets = sorted({reach.target for reach in own})
        cells = list(dict.fromkeys(reach.cell for reach in sorted(own, key=lambda reach: -reach.target)))
        several = len({cell.tuning for cell in cells}) > 1
        metric = own[0].metric
        figure, percent = figure_name(metric), " %" if is_share(metric) else ""
        heads = [("method", ""), *([("tuning", "")] if several else [])]
        heads += [(f"dev {figure} ≥ {show(target, metric)}{percent}", "number") for target in targets]
        rows = []
        for cell in cells:
            found = [_reach([r for r in own if (r.cell, r.target) == (cell, target)]) for target in targets]
            tuning = [td(escape(cell.tuning))] if several else []
            rows.append(f"<tr{filter_attributes(cell)}>{method_head(cell.method)}{''.join([*tuning, *found])}</tr>")
        caption = f"{escape(task)} with {escape(model)}"
        tables.append(table("costs", heads, rows, caption=caption))
    text = (
        "<p>Forward passes (a backward counts as two) and wall clock up to the first dev evaluation that reaches the "
        "figure: the mean of the runs that did. Evaluations are as far apart as the runs made them.</p>"
    )
    return text + "".join(tables)


def _reach(found: Sequence[Reach]) -> str:
    if not found or not found[0].num_reached:
        return td('<span class="faint">not reached</span>', kind="number")
    reach = found[0]
    spent = passes(reach.passes) if reach.passes is not None else "steps not counted"
    time = f" <small>{duration(reach.seconds)}</small>" if reach.seconds is not None else ""
    share = "" if reach.num_reached == reach.num_runs else f" <small>{reach.num_reached} of {reach.num_runs}</small>"
    # a target that not every run reached is no cheaper than one that all did
    penalty = 1e12 * (1 - reach.num_reached / reach.num_runs)
    return td(f"{spent}{time}{share}", penalty + (reach.passes or 0.0), kind="number")


def published_table(numbers: Sequence[Published]) -> str:
    """Return all numbers that were published on the tasks of the report; empty without any."""
    if not numbers:
        return ""
    heads = [
        *((name, "") for name in ("task", "model", "tuning", "method")),
        ("value", "number"),
        ("evidence", ""),
        ("source", ""),
        ("setting", ""),
    ]
    rows = []
    for entry in numbers:
        source = f"{entry.source}, {entry.where}" + (f" (arXiv {entry.arxiv})" if entry.arxiv else "")
        remark = "; ".join(filter(None, (entry.setting, entry.note)))
        cells = [td(escape(text)) for text in (entry.task, entry.model, entry.tuning, entry.label)]
        cells += [td(escape(entry.text), entry.value, kind="number published")]
        cells += [td(entry.evidence, title=EVIDENCE[entry.evidence]), td(escape(source)), td(escape(remark))]
        rows.append(f'<tr data-published-task="{escape(entry.task)}">{"".join(cells)}</tr>')
    caption = (
        f"All {len(numbers)} numbers on these tasks that we read, in {UNITS['score']}; none was measured here. One run "
        "on 1,000 rows has a standard error of 1.0 to 1.6 points, far more on cb (56 rows) and copa (100), and the "
        "same method on the same model differs by up to 7 points between papers."
    )
    search = '<input type="search" id="search-published" placeholder="search: opt-13b mezo lora" aria-label="search">'
    return f"<details><summary>Show {len(numbers)} published numbers</summary>{search}" + (
        table("published", heads, rows, caption=caption) + "</details>"
    )


def runs_table(report: Report) -> str:
    """Return every run, and how it ended."""
    heads = [
        *((name, "") for name in ("method", "task", "tuning", "model", "run", "state")),
        ("seed", "number"),
        ("steps", "number"),
        ("test", "number"),
        ("error", ""),
    ]
    metrics = {run.id: choice.metric for choice in report.choices for run in choice.tried}
    rows = []
    for run in report.runs:
        cell = Cell.of(run)
        metric = metrics.get(run.id, "")
        test = run.metrics.get(f"final.{metric}")
        state = run.state
        cells = [
            method_head(cell.method),
            *(td(escape(text)) for text in (cell.task, cell.tuning, cell.model, run.name)),
        ]
        cells += [
            td(f'<span class="state {state}">{state}</span>'),
            td("" if run.seed is None else str(run.seed), run.seed, kind="number"),
            td(passes(run.steps), run.steps, kind="number"),
            td("" if test is None else show(test, metric), test, kind="number"),
            td(escape(run.error or "")),
        ]
        rows.append(f"<tr{filter_attributes(cell)}>{''.join(cells)}</tr>")
    commits = ", ".join(sorted({run.commit for run in report.runs if run.commit}))
    caption = f"Every run, whichever way it ended.{f' foretune at {escape(commits)}.' if commits else ''}"
    return f"<details><summary>Show {len(rows)} runs</summary>{table('runs', heads, rows, caption=caption)}</details>"


def _signed(value: float, metric: str) -> str:
    text = show(abs(value), metric)
    return f"{'−' if value < 0 else '+'}{text}"


def _bytes(value: int | None) -> str:
    return "" if value is None else memory(value)
