"""`make bench`: the tables of docs/performance.md, measured and appended to the ledgers in results.

    python benchmarks/run.py [--tables methods engines ...] [--repeats 7] [--quick]

Each table is a call of `foretune bench step`: floor, published way and all contestants take turns in one process, and
ratios are taken within a round. With --quick everything is tiny and goes to --folder, which must then be given.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import noise
from ledger import RESULTS, append_rows, check_columns

from foretune.cli.bench import show_steps
from foretune.cli.display import quiet_libraries
from foretune.engine import ENGINES
from foretune.methods import METHODS
from foretune.runs.config import StepBenchConfig
from foretune.runs.step_bench import run_step_bench
from foretune.runs.step_row import Row

NOISE = "noise"
POPULATIONS = ("eggroll", "es")
"""Methods with tens of directions a step, which are measured with two."""
SMALL_STEPS = [name for name in METHODS if name not in POPULATIONS]
SWEPT = {"methods": ["mezo", "lozo"], "model": ["opt-125m"], "skip_published": True}
"""What growth is shown with; the rest is the default batch of 16 rows of 48 tokens, classified."""

TABLES: dict[str, dict[str, Any]] = {
    "every method": {
        "model": ["mini"],
        "methods": SMALL_STEPS,
        "tuning": ["full", "lora", "prefix", "prompt"],
        "objective": ["classification", "lm"],
    },
    "methods": {
        "model": ["opt-125m"],
        "methods": [name for name in SMALL_STEPS if "full" in METHODS.get(name).schemes],
    },
    "schemes": {
        "model": ["opt-125m"],
        "methods": ["mezo", "lozo"],
        "tuning": ["full", "lora", "prefix", "prompt"],
        "objective": ["classification", "lm"],
    },
    "few rows": {"model": ["opt-125m"], "methods": ["mezo", "lozo"], "objective": ["lm"], "batch": [8]},
    "populations": {"model": ["mini", "opt-125m"], "methods": list(POPULATIONS), "num_directions": [2]},
    "engines": {
        "model": ["opt-125m"],
        "methods": ["mezo", "lozo", "subzero"],
        "tuning": ["full", "lora"],
        "tokens": ["48", "9-58"],
        "engines": [name for name in ENGINES if name != "auto"],
    },
    "small batches": {
        "model": ["opt-125m"],
        "methods": ["mezo", "lozo", "subzero"],
        "tuning": ["full", "lora"],
        "batch": [1, 4],
        "engines": [name for name in ENGINES if name != "auto"],
        "skip_published": True,
    },
    "parameters": {**SWEPT, "model": ["mini", "opt-125m", "opt-350m"]},
    "tokens": {**SWEPT, "tokens": ["16", "32", "64", "128", "256"]},
    "batch": {**SWEPT, "batch": [1, 2, 4, 8, 16, 32]},
    "directions": {**SWEPT, "num_directions": [1, 2, 4, 8]},
    "rank": {**SWEPT, "methods": ["lozo", "subzero"], "rank": [1, 2, 4, 8, 16, 32]},
}
QUICK = {
    "model": ["mini"],
    "methods": ["mezo", "lozo"],
    "engines": ["layerwise", "in_place"],
    "batch": [2],
    "tokens": ["6"],
    "repeats": 2,
}


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=[*TABLES, NOISE], default=[*TABLES, NOISE], metavar="TABLE")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are counted")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="of step.csv and noise.csv")
    parser.add_argument("--quick", action="store_true", help="a smoke run: one tiny table of steps and one of noise")
    found = parser.parse_args(arguments)
    if found.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {found.repeats}")
    if found.quick and found.folder == RESULTS:
        parser.error("--quick measures nothing that is worth keeping: give another --folder")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    options = parse(arguments)
    steps, kernels = options.folder / "step.csv", options.folder / "noise.csv"
    check_columns(steps, Row)
    check_columns(kernels, noise.Row)
    quiet_libraries()
    tables = {"quick": QUICK} if options.quick else {name: TABLES[name] for name in options.tables if name != NOISE}
    for settings in tables.values():
        config = StepBenchConfig(**{"repeats": options.repeats, "device": "cpu", **settings, "csv": str(steps)})
        run_step_bench(config, show_steps)
    if options.quick or NOISE in options.tables:
        sizes = {"elements": 1 << 16, "rounds": 2} if options.quick else {"rounds": options.repeats}
        rows = noise.measure(**sizes)
        append_rows(kernels, rows, digits=6)
        print(f"{len(rows)} rows appended to {kernels}.")


if __name__ == "__main__":
    main()
