"""`foretune runs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from foretune.cli.options import Options
from foretune.errors import UsageError, near_misses
from foretune.ledger import Ledger, Run, check_names, find_existing_ledger, look_up
from foretune.ledger.run import DEAD, STATUSES

_USAGE = """usage: foretune runs list [--where CONDITION...] [--sort NAME] [--columns NAME...]
       foretune runs show RUN
       foretune runs compare [RUN...] [--where CONDITION...]
       foretune runs export -o FILE.csv|.json|.parquet [--points] [--where CONDITION...]
       foretune runs import PATH... [--task TASK] [--method METHOD] ...

foretune runs ACTION --help lists the options. Runs are in a ledger: --ledger FILE, $FORETUNE_LEDGER, or runs.sqlite
here or in runs. RUN is a name, an id or the beginning of one. Conditions: method=mezo "lr<=1e-4" "final.accuracy>0.9"
state=finished name~first"""

_COLUMNS = ("id", "name", "state", "task", "method", "tuning", "lr", "seed", "steps", "final.accuracy")


@dataclass(kw_only=True)
class LedgerConfig:
    """Which ledger is read."""

    ledger: str | None = field(
        default=None, metadata={"help": "Ledger; default: $FORETUNE_LEDGER, else runs.sqlite here or in runs."}
    )

    def open(self) -> Ledger:
        """Open it.

        Raises:
            UsageError: there is none.
        """
        return Ledger.open(find_existing_ledger(self.ledger))


@dataclass(kw_only=True)
class SelectConfig(LedgerConfig):
    """Which runs are meant, and in which order."""

    runs: list[str] | None = field(
        default=None, metadata={"help": "Names or ids; in front of other options the words alone will do."}
    )
    where: list[str] | None = field(
        default=None, metadata={"help": "Conditions that all hold, for example method=mezo 'lr<=1e-4'."}
    )
    status: list[str] | None = field(
        default=None, metadata={"help": "States of runs, for example finished failed dead."}
    )
    sort: str | None = field(default=None, metadata={"help": "Field, metric or setting to sort by; default: started."})
    descending: bool = field(default=False, metadata={"help": "Largest first."})

    def select(self, ledger: Ledger) -> list[Run]:
        """Return the runs.

        Raises:
            UsageError: a name, a condition or a state is unknown.
        """
        for state in self.status or ():
            if state not in (*STATUSES, DEAD):
                raise UsageError(f"--status {state}: no run is ever so.{near_misses(state, (*STATUSES, DEAD))}")
        named = {ledger.get(word).id for word in self.runs or ()}
        found = [
            run
            for run in ledger.query(self.where or (), sort=self.sort)
            if (not named or run.id in named) and (self.status is None or run.state in self.status)
        ]
        return found[::-1] if self.descending else found


@dataclass(kw_only=True)
class ListConfig(SelectConfig):
    """`foretune runs list`."""

    columns: list[str] | None = field(
        default=None, metadata={"help": f"Fields, metrics or settings; default: {' '.join(_COLUMNS)}."}
    )


@dataclass(kw_only=True)
class ShowConfig(LedgerConfig):
    """`foretune runs show`."""

    run: str = field(default="", metadata={"help": "Name, id or the beginning of one."})


@dataclass(kw_only=True)
class ExportConfig(ListConfig):
    """`foretune runs export`."""

    output: str = field(default="", metadata={"help": "File whose ending says the format: .csv, .json or .parquet."})
    points: bool = field(
        default=False, metadata={"help": "A line for every step that has figures instead of one for every run."}
    )


def run(arguments: Sequence[str]) -> None:
    """List, show, compare, export or import runs."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE)
        if not words:
            raise UsageError("foretune runs needs to be told what to do, for example list.")
        return
    actions = {"list": _list, "show": _show, "compare": _compare, "export": _export, "import": _import}
    if words[0] not in actions:
        raise UsageError(f"Unknown action {words[0]!r} of foretune runs.{near_misses(words[0], actions)}")
    actions[words[0]](words[1:])


def _parse(action: str, text: str, config: type, words: list[str], leading: str) -> Any:
    """Parse options; words in front of the first one belong to `leading`."""
    if words and not words[0].startswith("-"):
        words = [f"--{leading}", *words]
    return Options(f"runs {action}", text, config).parse(words)


def _list(words: list[str]) -> None:
    config = _parse("list", "List runs, oldest first.", ListConfig, words, "runs")

    from foretune.cli.tables import print_table

    with config.open() as ledger:
        runs = config.select(ledger)
        columns = config.columns or [name for name in _COLUMNS if name != "final.accuracy" or _any(runs, name)]
        if config.columns:
            check_names(config.columns, [run.values() for run in runs], "--columns")
        rows = [[_cell(look_up(values, name)) for name in columns] for values in (run.values() for run in runs)]
        print_table(f"{len(runs)} run{'' if len(runs) == 1 else 's'} in {ledger.path}", columns, rows)


def _show(words: list[str]) -> None:
    config = _parse("show", "Show all that is known of a run.", ShowConfig, words, "run")
    if not config.run:
        raise UsageError("No run was named: foretune runs show RUN.")

    from foretune.cli.tables import print_table

    with config.open() as ledger:
        run = ledger.get(config.run)
        points = ledger.points(run.id)
    shown = {name: value for name, value in run.values().items() if value is not None}
    print_table(f"Run {run.name}", ("what", "value"), [(name, _cell(value)) for name, value in shown.items()])
    names = dict.fromkeys(name for point in points for name in point.figures)
    if names:
        rows = []
        for name in names:
            found = [(point.step, point.figures[name]) for point in points if name in point.figures]
            values = [value for _, value in found if not math.isnan(value)] or [math.nan]
            rows.append(
                (name, str(len(found)), _cell(found[0][1]), *map(_cell, (min(values), max(values), found[-1][1])))
            )
        title = f"Figures by step, {points[0].step} to {points[-1].step} (foretune runs export --points has them all)"
        print_table(title, ("figure", "lines", "first", "least", "most", "last"), rows)


def _compare(words: list[str]) -> None:
    config = _parse("compare", "Show where runs differ, seeds taken together.", SelectConfig, words, "runs")

    from foretune.cli.tables import print_table
    from foretune.ledger.compare import Spread, differences
    from foretune.ledger.compare import group as grouped

    with config.open() as ledger:
        groups = grouped(config.select(ledger))
    if not groups:
        raise UsageError("No run is chosen: nothing can be compared. 'foretune runs list' shows all.")

    def line(name: str, spreads: Sequence[dict[str, Spread]]) -> list[str]:
        return [name, *(_spread(found[name]) if name in found else "-" for found in spreads)]

    rows = [["runs", *(", ".join(f"{n} {state}" for state, n in group.states.items()) for group in groups)]]
    rows += [["seeds", *(" ".join(_seed(seeds) for seeds in group.seeds) for group in groups)]]
    rows += [[name, *map(_cell, values)] for name, values in differences(groups).items()]
    for spreads in ([group.metrics() for group in groups], [group.costs() for group in groups]):
        rows += [line(name, spreads) for name in dict.fromkeys(name for found in spreads for name in found)]
    columns = ("", *(group.name for group in groups))
    print_table("Settings that differ, and mean ± sample standard deviation (number of runs)", columns, rows)


def _export(words: list[str]) -> None:
    words = ["--output" if word == "-o" else word for word in words]
    config = _parse("export", "Write runs to a file.", ExportConfig, words, "runs")

    from foretune.cli.display import quiet_libraries
    from foretune.ledger.export import check_format, point_table, run_table, write_table

    if not config.output:
        raise UsageError("--output is missing: give a file that ends in .csv, .json or .parquet.")
    if config.points and config.columns:
        raise UsageError(f"--columns {' '.join(config.columns)} has no effect with --points.")
    check_format(Path(config.output))
    quiet_libraries()
    with config.open() as ledger:
        runs = config.select(ledger)
        if config.columns:
            check_names(config.columns, [run.values() for run in runs], "--columns")
        table = point_table(ledger, runs) if config.points else run_table(runs, config.columns)
    write_table(table, Path(config.output))
    print(f"{len(table)} lines of {len(runs)} runs in {config.output}")


def _import(words: list[str]) -> None:
    from foretune.runs.config import ImportConfig
    from foretune.runs.importing import import_runs

    text = "Put logs of other programs into the ledger: TensorBoard, W&B, transformers' trainer_state.json."
    config = _parse("import", text, ImportConfig, words, "paths")
    imported = import_runs(config)
    for entry, num_points, is_new in imported.runs:
        print(
            f"{entry.id}  {entry.name} ({entry.source}): {num_points} steps{'' if is_new else ', brought up to date'}"
        )
    print(f"{len(imported.runs)} runs in {imported.ledger}")


def _any(runs: Sequence[Run], metric: str) -> bool:
    return not runs or any(metric in run.metrics for run in runs)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


def _spread(spread: Any) -> str:
    around = "" if math.isnan(spread.deviation) else f" ± {spread.deviation:.2g}"
    return f"{spread.mean:.6g}{around} ({spread.count})"


def _seed(seeds: tuple[int | None, int | None]) -> str:
    """Write a run seed, with that of the rows where it is not 0."""
    seed, train_set_seed = ("?" if value is None else str(value) for value in seeds)
    return seed if train_set_seed in ("0", "?") else f"{seed}/{train_set_seed}"
