"""What `foretune probe` recommends beside a whole sweep of lr and zo_eps, on a small real model.

    python benchmarks/probe_against_sweep.py --model DIR/opt-mini --data-dir DATA [--only CASE ...] [--workers 2]

For each case a grid of lr and zo_eps with two seeds, by `foretune sweep` in --output, and probes with three seeds. Rows
are appended to results/probe.csv; a case that is there is not measured again, nor is a trial that is in --output.
Afterwards (with --page: only this) docs/probe-against-sweep.md is written from them.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from command import parse
from ledger import append_rows, commit_stamp, read_rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "probe.csv"
PAGE = ROOT / "docs" / "probe-against-sweep.md"

STEPS = 300
BATCH_SIZE = 8
EVAL_STEPS = 100
NUM_DEV = 500
SEEDS = (0, 1)
PROBE_SEEDS = (0, 1, 2)
RUN, PROBE = "run", "probe"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method with a tuning scheme, and the grid around where it works."""

    method: str
    tuning: str
    lr: tuple[float, ...]
    zo_eps: tuple[float, ...]


_FULL_LR = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
CASES = {
    "mezo": Case(method="mezo", tuning="full", lr=_FULL_LR, zo_eps=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1)),
    "lozo": Case(method="lozo", tuning="full", lr=_FULL_LR, zo_eps=(1e-4, 1e-3, 1e-2)),
    "mezo-lora": Case(method="mezo", tuning="lora", lr=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2), zo_eps=(1e-3, 1e-2, 1e-1)),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run of the grid with its best dev loss, or a probe, which has no loss; `status` is the ledger's."""

    case: str
    kind: str
    lr: float
    zo_eps: float
    seed: int
    status: str
    dev_loss: float | str
    forwards: int
    seconds: float
    commit: str


def shared_settings(model: str, data_dir: str) -> dict[str, Any]:
    """Return what all runs and probes have in common."""
    return {
        "model": model,
        "task": "sst2",
        "data_dir": data_dir,
        "steps": STEPS,
        "eval_steps": EVAL_STEPS,
        "batch_size": BATCH_SIZE,
        "num_dev": NUM_DEV,
        "num_eval": 1,
    }


def sweep(name: str, case: Case, settings: dict[str, Any], folder: Path, workers: int) -> list[Row]:
    """Run the grid of a case, as far as it is not there yet."""
    from foretune.cli.sweep import run as run_sweep
    from foretune.ledger import Ledger
    from foretune.reports.naming import settings_of

    swept = {"method": case.method, "tuning": case.tuning, "lr": list(case.lr), "zo_eps": list(case.zo_eps)}
    described = {
        "method": "grid",
        "metric": {"name": "dev.loss", "goal": "minimize"},
        "parameters": {option: {"value": value} for option, value in settings.items()},
        "seeds": list(SEEDS),
        "grids": [swept],
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(described))
    run_sweep([str(file), "--output", str(folder), "--workers", str(workers), "--threads", "1"])
    with Ledger.open(folder / "runs.sqlite") as ledger:
        runs = ledger.query()
    rows = [
        Row(
            case=name,
            kind=RUN,
            lr=chosen["lr"],
            zo_eps=chosen["zo_eps"],
            seed=found.seed or 0,
            status=found.state,
            dev_loss=found.metrics.get("dev.loss", "") if found.state == "finished" else "",
            forwards=found.forward_passes or 0,
            seconds=round(found.seconds or 0.0, 1),
            commit=found.commit or "",
        )
        for found, chosen in ((run, settings_of(run)) for run in runs)
    ]
    return sorted(rows, key=lambda row: (row.lr, row.zo_eps, row.seed))


def probe(name: str, case: Case, settings: dict[str, Any]) -> list[Row]:
    """Ask the probe, which begins at the method's own values."""
    from foretune.cli.probe import parse as parse_probe
    from foretune.runs.settings_probe import probe_settings

    rows = []
    for seed in PROBE_SEEDS:
        options = settings | {"method": case.method, "tuning": case.tuning, "seed": seed}
        words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        found = probe_settings(parse_probe(words))
        rows.append(
            Row(
                case=name,
                kind=PROBE,
                lr=found.lr.value,
                zo_eps=found.zo_eps.value if found.zo_eps is not None else math.nan,
                seed=seed,
                status="finished",
                dev_loss="",
                forwards=found.num_forwards,
                seconds=round(found.seconds, 1),
                commit=commit_stamp(),
            )
        )
    return rows


# The page.

PREFACE = f"""# The probe against a sweep

Written by `python benchmarks/probe_against_sweep.py` from benchmarks/results/probe.csv: what [the probe](probe.md)
recommends, and what runs say that try a whole grid. opt-mini, SST-2, {STEPS} steps of {BATCH_SIZE} rows, the best of
{STEPS // EVAL_STEPS} evaluations on {NUM_DEV} dev rows, seeds {" and ".join(map(str, SEEDS))}. A cell has the mean
dev loss; *diverged* means that at least one of the runs was ended as such. The best cell is **bold**. The probe was
asked with seeds {", ".join(map(str, PROBE_SEEDS))}, and begins at the method's own values. *Cells away* counts steps
in the grid from the best cell, from what was recommended to the nearest lr and zo_eps by ratio.
"""


def mean_losses(rows: Sequence[Row]) -> dict[tuple[float, float], float]:
    """Return the mean dev loss by (lr, zo_eps); infinite where a run has none."""
    losses: dict[tuple[float, float], list[float]] = {}
    for row in rows:
        if row.kind == RUN:
            loss = row.dev_loss if isinstance(row.dev_loss, float) else math.inf
            losses.setdefault((row.lr, row.zo_eps), []).append(loss)
    return {cell: fmean(found) for cell, found in losses.items()}


def nearest(value: float, grid: Sequence[float]) -> int:
    """Return the place of the element of a grid that is nearest to a value by ratio."""
    return min(range(len(grid)), key=lambda place: abs(math.log(value / grid[place])))


def section(name: str, rows: Sequence[Row]) -> list[str]:
    """Return the lines about one case."""
    losses = mean_losses(rows)
    rates, scales = (sorted({cell[axis] for cell in losses}) for axis in (0, 1))
    best = min(losses, key=lambda cell: losses[cell])

    def cell_text(lr: float, zo_eps: float) -> str:
        loss = losses[lr, zo_eps]
        text = f"{loss:.4f}" if math.isfinite(loss) else "diverged"
        return f"**{text}**" if (lr, zo_eps) == best else text

    lines = [f"## {name}", "", f"| lr | {' | '.join(f'zo_eps {scale:g}' for scale in scales)} |"]
    lines.append("| --- " * (len(scales) + 1) + "|")
    lines += [f"| {lr:g} | {' | '.join(cell_text(lr, scale) for scale in scales)} |" for lr in rates]
    lines += [
        "",
        "| probe | lr | zo_eps | cells away: lr, zo_eps | mean dev loss there | over the best | forward passes |",
    ]
    lines.append("| --- " * 7 + "|")
    for row in rows:
        if row.kind == PROBE:
            place = nearest(row.lr, rates), nearest(row.zo_eps, scales)
            away = place[0] - rates.index(best[0]), place[1] - scales.index(best[1])
            there = losses[rates[place[0]], scales[place[1]]]
            cells = (
                f"seed {row.seed}",
                f"{row.lr:g}",
                f"{row.zo_eps:g}",
                f"{away[0]:+d}, {away[1]:+d}",
                f"{there:.4f}",
            )
            lines.append(f"| {' | '.join(cells)} | {there - losses[best]:+.4f} | {row.forwards:,} |")
    runs = [row for row in rows if row.kind == RUN]
    grid_forwards = sum(row.forwards for row in runs)
    lines += [
        "",
        f"The grid took {grid_forwards:,} forward passes in {len(runs)} runs. {spread_between_seeds(runs)}",
        "",
    ]
    return lines


def spread_between_seeds(runs: Sequence[Row]) -> str:
    """Say by how much the seeds of a cell differ."""
    by_cell: dict[tuple[float, float], list[float]] = {}
    for row in runs:
        if isinstance(row.dev_loss, float):
            by_cell.setdefault((row.lr, row.zo_eps), []).append(row.dev_loss)
    gaps = [max(found) - min(found) for found in by_cell.values() if len(found) > 1]
    return f"The two seeds of a cell differ by {fmean(gaps):.4f} on average." if gaps else ""


def page(rows: Sequence[Row]) -> str:
    """Return the page about these rows."""
    sections = [section(name, found) for name in CASES if (found := [row for row in rows if row.case == name])]
    return "\n".join([PREFACE, *(line for lines in sections for line in lines)]).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then write the page."""

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, default=2, help="processes that run trials, of one thread each")
        parser.add_argument("--output", type=Path, default=Path("sweeps/probe"), help="folder of the sweeps")

    options = parse(__doc__.splitlines()[0], arguments, only="CASE", add=add)
    wanted = set(options.only or CASES)
    if unknown := wanted - set(CASES):
        sys.exit(f"--only {' '.join(sorted(unknown))}: there is no such case. Available: {', '.join(CASES)}.")
    if not options.page:
        import torch

        from foretune.cli.display import quiet_libraries

        quiet_libraries()
        torch.set_num_threads(1)
        settings = shared_settings(options.model, options.data_dir)
        done = {row.case for row in read_rows(RESULTS, Row)}
        for name, case in CASES.items():
            if name in wanted - done:
                runs = sweep(name, case, settings, options.output / name, options.workers)
                append_rows(RESULTS, [*runs, *probe(name, case, settings)])
    PAGE.write_text(page(read_rows(RESULTS, Row)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
