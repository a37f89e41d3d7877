"""`foretune bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foretune.cli.options import Options
from foretune.errors import UsageError, near_misses

if TYPE_CHECKING:
    from foretune.runs.memory_bench import Row

WHAT = {"memory": "Peak memory and time a step on random tokens, each case in a process of its own."}


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
    _memory(words[1:])


def _memory(arguments: Sequence[str]) -> None:
    from foretune.runs.config import MemoryBenchConfig
    from foretune.runs.memory_bench import run_bench

    config = Options("bench memory", WHAT["memory"], MemoryBenchConfig).parse(arguments)

    from foretune.cli.display import print_table, quiet_libraries

    quiet_libraries()
    rows = run_bench(config, lambda row: print(_line(row), flush=True))
    columns = ("model", "tokens", "method", "tuning", "peak, MiB", "predicted", "x inference", "s a step")
    title = f"{config.batch_size} rows, {config.objective} loss, {rows[0].dtype}, {rows[0].device}: above the process"
    inference = {(row.model, row.sequence_length): row.peak_bytes for row in rows if row.method == "inference"}
    print_table(title, columns, [_cells(row, inference[row.model, row.sequence_length]) for row in rows])
    for path in (config.csv, config.plot):
        if path is not None:
            print(f"Written: {path}")


def _line(row: Row) -> str:
    found = row.failure or f"{row.peak_bytes / 2**20:,.0f} MiB, {row.seconds_per_step:.3f} s a step"
    return f"{row.model}, {row.sequence_length} tokens, {row.method} {row.tuning}: {found}"


def _cells(row: Row, inference: int) -> tuple[str, ...]:
    place = (row.model, str(row.sequence_length), row.method, row.tuning)
    predicted = f"{row.predicted_bytes / 2**20:,.0f}" if row.predicted_bytes else "-"
    if row.failure:
        return (*place, row.failure, predicted, "-", "-")
    ratio = f"{row.peak_bytes / inference:.2f}" if inference else "-"
    return (*place, f"{row.peak_bytes / 2**20:,.0f}", predicted, ratio, f"{row.seconds_per_step:.3f}")
