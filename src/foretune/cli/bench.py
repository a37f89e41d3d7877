"""`foretune bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foretune.cli.options import Options
from foretune.errors import UsageError, near_misses

if TYPE_CHECKING:
    from foretune.runs.memory_bench import Row
    from foretune.runs.step_bench import Table
    from foretune.runs.step_row import Row as Figure

WHAT = {
    "memory": "Peak memory and time a step on random tokens, each case in a process of its own.",
    "step": "Time of a step, in parts, beside two bare forwards and the published way, on random tokens.",
}
_BUSY = 1.3
"""Where the floor itself varies by more than this factor, the machine does something else as well."""


def run(arguments: Sequence[str]) -> None:
    """Measure what is named first, and print a table."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print("usage: foretune bench WHAT [OPTIONS]   (foretune bench WHAT --help)\n")
        print("\n".join(f"  {name}  {text}" for name, text in WHAT.items()))
        if not words:
            raise UsageError(f"foretune bench measures one of: {', '.join(WHAT)}.")
        return
    if words[0] not in WHAT:
        raise UsageError(f"foretune bench does not measure {words[0]!r}.{near_misses(words[0], WHAT)}")
    {"memory": _memory, "step": _step}[words[0]](words[1:])


def _memory(arguments: Sequence[str]) -> None:
    from foretune.runs.config import MemoryBenchConfig
    from foretune.runs.memory_bench import run_bench

    config = Options("bench memory", WHAT["memory"], MemoryBenchConfig).parse(arguments)

    from foretune.cli.display import print_table, quiet_libraries

    quiet_libraries()
    rows = run_bench(config, lambda row: print(_line(row), flush=True))
    columns = ("", "tuning", "peak", "predicted", "x inf.", "layer", "state", "above", "s a step")
    for model, length in dict.fromkeys((row.model, row.sequence_length) for row in rows):
        found = [row for row in rows if (row.model, row.sequence_length) == (model, length)]
        batch = f"{config.batch_size} x {length} tokens, {config.objective} loss, {found[0].dtype}, {found[0].device}"
        print_table(f"{model}, {batch}: MiB over the process", columns, [_cells(row) for row in found])
    print("Above: what the peak is over inference, the largest layer that is perturbed, and state.")
    for path in (config.csv, config.plot):
        if path is not None:
            print(f"Written: {path}")


def _line(row: Row) -> str:
    time = f", {row.seconds_per_step:.3f} s a step" if row.seconds_per_step else ""
    found = row.failure or f"{_mib(row.peak_bytes)} MiB{time}"
    return f"{row.model}, {row.sequence_length} tokens, {row.method} {row.tuning}: {found}"


def _cells(row: Row) -> tuple[str, ...]:
    place = (row.method, row.tuning)
    predicted = _mib(row.predicted_bytes) if row.predicted_bytes else "-"
    if row.failure:
        return (*place, row.failure, predicted, "-", "-", "-", "-", "-")
    ratio = f"{row.peak_bytes / row.inference_bytes:.2f}" if row.inference_bytes else "-"
    parts = (_mib(row.layer_bytes), _mib(row.state_bytes), _mib(row.excess_bytes)) if row.is_promised else ("-",) * 3
    time = f"{row.seconds_per_step:.3f}" if row.seconds_per_step else "-"
    return (*place, _mib(row.peak_bytes), predicted, ratio, *parts, time)


def _mib(number: int) -> str:
    return f"{number / 2**20:,.1f}"


def _step(arguments: Sequence[str]) -> None:
    from foretune.runs.config import StepBenchConfig

    config = Options("bench step", WHAT["step"], StepBenchConfig).parse(arguments)

    from foretune.cli.display import quiet_libraries
    from foretune.runs.step_bench import run_step_bench

    quiet_libraries()
    run_step_bench(config, show_steps)
    if config.csv is not None:
        print(f"Written: {config.csv}")


def show_steps(table: Table) -> None:
    """Print what was measured on one workload."""
    from foretune.cli.display import print_table
    from foretune.runs.step_row import FLOOR, SPEED_UP, STEP, TO_FLOOR
    from foretune.runs.timing import PARTS

    load = table.workload
    title = (
        f"{load.model}, {load.tuning} tuning, {load.objective} loss, {load.batch} x {load.tokens} tokens, "
        f"{load.dtype}, {load.device}: medians; speed-up over the published way; parts of the step"
    )
    found: dict[str, dict[str, Figure]] = {}
    for row in table.rows:
        found.setdefault(row.label, {})[row.what] = row
    lines = [
        (
            name,
            f"{figures[STEP].value:.3g}",
            _with_spread(figures.get(TO_FLOOR)),
            f"{figures[SPEED_UP].value:.1f}x" if SPEED_UP in figures else "",
            *(f"{figures[part].value / figures[STEP].value:.1%}" if part in figures else "" for part in PARTS),
        )
        for name, figures in found.items()
    ]
    columns = ("", "step, s", "x floor (20-80 %)", "speed-up", *PARTS)
    print_table(title, columns, lines)
    for contestant, reason in table.left_out:
        print(f"Left out: {contestant}: {reason}")
    floor = found[FLOOR][STEP] if FLOOR in found else None
    if floor is not None and floor.high > _BUSY * floor.low:
        print(f"The floor took {floor.low:.3g} to {floor.high:.3g} s: the machine is busy, trust no figure here.")


def _with_spread(figure: Figure | None) -> str:
    return "" if figure is None else f"{figure.value:.3f} ({figure.low:.2f}-{figure.high:.2f})"
