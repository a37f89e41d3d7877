"""`make bench`: a step against two bare forwards and against the published way; its parts; its memory.

All contestants run in one process, in turns (A B C A B C ...), on the same model and batch; ratios are taken
within a round. Rows are appended to results/step.csv.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import memory
import noise
import published_way
import torch
from ledger import Ledger, Row
from rich.console import Console
from rich.table import Table
from timing import Seconds, Spread, TimedStep, interleave, timed
from workload import (
    BATCH_SIZE,
    EQUAL_LENGTHS,
    MIXED_LENGTHS,
    SHAPES,
    Shape,
    build_model,
    describe_lengths,
    make_rows,
)

from foretune.adapters import make_tuning
from foretune.methods import make_method
from foretune.objectives import ClassificationObjective, find_tied_head
from foretune.optimizer import Optimizer

RESULTS = Path(__file__).resolve().parent / "results" / "step.csv"
FLOOR = "two forwards"
PUBLISHED = "published"
PARTS = ("forward", "noise write", "update", "overhead")
LR = 1e-7
TUNINGS = ("full", "lora", "prefix", "prompt")
BUSY = 1.3
"""Where the floor itself varies by more than this factor, the machine does something else as well."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A method with an engine.

    Attributes:
        label: How it is called with ``--methods``, and in the table.
        method: Registered name of the method.
        engine: ``layerwise`` or ``in_place``.
        num_directions: Directions per step.
    """

    label: str
    method: str
    engine: str
    num_directions: int = 1

    def build(self, model: torch.nn.Module) -> Optimizer:
        """Make its optimizer."""
        method = make_method(self.method, {"lr": LR, "num_directions": self.num_directions})
        return Optimizer(model, **method.optimizer_arguments(), engine=self.engine)


CONTESTANTS = {
    contestant.label: contestant
    for engine in ("layerwise", "in_place")
    for contestant in (
        Contestant(f"mezo/{engine}", "mezo", engine),
        Contestant(f"mezo-4/{engine}", "mezo", engine, num_directions=4),
        Contestant(f"lozo/{engine}", "lozo", engine),
        Contestant(f"lozo_m/{engine}", "lozo_m", engine),
    )
}


def measure_steps(
    ledger: Ledger,
    model: torch.nn.Module,
    shape: Shape,
    lengths: Sequence[int],
    contestants: Sequence[Contestant],
    repeats: int,
) -> None:
    """Time the floor, the published way and our steps on one batch, and note times, parts and ratios."""
    rows = make_rows(shape, lengths)
    objective = ClassificationObjective(find_tied_head(model))
    batch, published_batch = objective.collate(rows), published_way.collate(rows)

    def closure() -> torch.Tensor:
        return objective.loss(model, batch)

    @torch.inference_mode()
    def two_forwards() -> None:
        closure().item()
        closure().item()

    published = published_way.PublishedMeZO(model, lr=LR)
    cases: dict[str, Callable[[], Seconds]] = {
        FLOOR: timed(two_forwards),
        PUBLISHED: timed(lambda: published.step(lambda: published_way.loss(model, published_batch))),
        **{contestant.label: TimedStep(contestant.build(model), closure) for contestant in contestants},
    }
    measured = interleave(cases, repeats)

    place = {"batch": len(lengths), "tokens": describe_lengths(lengths)}
    whole = {name: [seconds["step"] for seconds in samples] for name, samples in measured.items()}
    for name in (FLOOR, PUBLISHED):
        ledger.add(name, "step", Spread.of(whole[name]), "s", **place)
    ledger.add(PUBLISHED, "ratio to floor", Spread.of_ratio(whole[PUBLISHED], whole[FLOOR]), "x", **place)
    for contestant in contestants:
        name, samples = contestant.label, measured[contestant.label]
        q = contestant.num_directions
        for what in ("step", *PARTS):
            ledger.add(name, what, Spread.of([seconds[what] for seconds in samples]), "s", **place)
        shares = [(seconds["noise write"] + seconds["update"]) / seconds["step"] for seconds in samples]
        ledger.add(name, "noise and update share", Spread.of(shares), "of step", **place)
        # q directions are q times the floor's two forwards, and q of the published way's steps
        floor, usual = ([q * seconds for seconds in whole[baseline]] for baseline in (FLOOR, PUBLISHED))
        ledger.add(name, "ratio to floor", Spread.of_ratio(whole[name], floor), "x", **place)
        forward = [seconds["forward"] for seconds in samples]
        ledger.add(name, "forward ratio to floor", Spread.of_ratio(forward, floor), "x", **place)
        ledger.add(name, "speed-up over published", Spread.of_ratio(usual, whole[name]), "x", **place)


def measure_memory(ledger: Ledger, shape: Shape, dtype: str) -> None:
    """Note the peak memory of each case, and what a step adds to inference in largest layers."""
    layer_bytes = shape.largest_owner_elements * getattr(torch, dtype).itemsize
    place = {"batch": BATCH_SIZE, "tokens": describe_lengths(EQUAL_LENGTHS)}
    peaks = memory.measure(shape.name, dtype)
    inference = peaks[memory.INFERENCE]
    for case, peak in peaks.items():
        figures = {
            "peak memory": (peak.peak_bytes / 2**20, "MiB"),
            "peak memory above libraries": (peak.own_bytes / 2**20, "MiB"),
            "memory above inference": (
                (peak.own_bytes - inference.own_bytes) / layer_bytes,
                "largest layers",
            ),
        }
        for what, (value, unit) in figures.items():
            ledger.add(case, what, Spread(value, value, value, 1), unit, **place)


def measure_noise(ledger: Ledger, **sizes: int) -> None:
    """Note the time per element of each noise kernel, and `torch.normal` + add's over it."""
    for row in noise.measure(**sizes):
        if row["dtype"] == ledger.dtype:
            for what, value, unit in (
                ("time", row["median_ns"], "ns/element"),
                ("speed-up", row["speedup"], "times"),
            ):
                ledger.add(row["case"], what, Spread(value, math.nan, math.nan, sizes["rounds"]), unit)


def print_steps(console: Console, ledger: Ledger, lengths: Sequence[int]) -> None:
    """Print times, parts and ratios for one batch."""
    tokens = describe_lengths(lengths)
    title = f"One step: {ledger.shape}, batch {len(lengths)}, {tokens} tokens (medians; 20-80 % in brackets)"
    table = Table(title=title)
    for heading in (
        "",
        "step, s",
        "x floor",
        "forward x floor",
        "published / it",
        "forward, s",
        "noise, s",
        "update, s",
    ):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_column("overhead, s", justify="right")
    table.add_column("noise+update", justify="right")
    found = {(row.method, row.what): row for row in ledger.rows if row.tokens == tokens}

    def cell(name: str, what: str, digits: int = 3) -> str:
        row = found.get((name, what))
        return "" if row is None else _cell(row, digits)

    for name in dict.fromkeys(method for method, what in found if what == "step"):
        share = found.get((name, "noise and update share"))
        table.add_row(
            name,
            cell(name, "step"),
            cell(name, "ratio to floor"),
            cell(name, "forward ratio to floor"),
            cell(name, "speed-up over published", 1),
            *(f"{found[name, part].value:.3f}" if (name, part) in found else "" for part in PARTS),
            "" if share is None else f"{share.value:.0%}",
        )
    console.print(table)
    floor = found[FLOOR, "step"]
    if floor.high > BUSY * floor.low:
        console.print(f"{FLOOR} took {floor.low:.2f} to {floor.high:.2f} s: the machine is busy, trust no figure here.")


def print_rest(console: Console, ledger: Ledger) -> None:
    """Print what is no part of a step: noise kernels and memory."""
    rows = [row for row in ledger.rows if row.unit not in ("s", "x", "of step")]
    if not rows:
        return
    table = Table("", "", "value", "unit", title="Noise and memory")
    for row in rows:
        table.add_row(row.method, row.what, _cell(row, 2), row.unit)
    console.print(table)


def _cell(row: Row, digits: int) -> str:
    text = f"{row.value:.{digits}f}"
    return text if row.n == 1 or math.isnan(row.low) else f"{text} ({row.low:.{digits}f}-{row.high:.{digits}f})"


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description="Time and memory of whole steps.")
    parser.add_argument("--shape", choices=[name for name in SHAPES if name != "tiny"], default="opt-125m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "float64"], default="float32")
    parser.add_argument("--tuning", nargs="+", choices=TUNINGS, default=["full"], help="what is trained, one by one")
    parser.add_argument("--repeats", type=int, default=7, help="rounds that are counted")
    parser.add_argument("--methods", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="METHOD/ENGINE")
    parser.add_argument("--output", type=Path, default=RESULTS, help="CSV file to append to")
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny model, two rounds, no memory")
    found = parser.parse_args(arguments)
    if found.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {found.repeats}")
    if found.quick:
        found.shape, found.repeats = "tiny", 2
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, append."""
    options = parse(arguments)
    shape, dtype = SHAPES[options.shape], getattr(torch, options.dtype)
    console = Console(width=150)
    contestants = [CONTESTANTS[label] for label in options.methods]
    noise_sizes = {"elements": 1 << 16, "rounds": 2} if options.quick else {"rounds": options.repeats}
    for tuning in options.tuning:
        ledger = Ledger(shape=shape.name if tuning == "full" else f"{shape.name} {tuning}", dtype=options.dtype)
        model = make_tuning({"name": tuning}).attach(build_model(shape, dtype), seed=0).eval()
        for lengths in (EQUAL_LENGTHS, MIXED_LENGTHS):
            measure_steps(ledger, model, shape, lengths, contestants, options.repeats)
            print_steps(console, ledger, lengths)
        if tuning == "full":
            if memory.is_supported() and not options.quick:
                measure_memory(ledger, shape, options.dtype)
            measure_noise(ledger, **noise_sizes)
            print_rest(console, ledger)
        ledger.append_to(options.output)
        console.print(f"{len(ledger.rows)} rows appended to {options.output}.")


if __name__ == "__main__":
    main()
