"""Writes docs/performance.md and its plots from the ledgers in results and the words in a template: `make docs`.

Of figures that were measured several times, the latest counts, and of steps those of one machine a workload. A test
compares the page with what this returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import figures
import noise
from ledger import RESULTS, read_rows
from matplotlib.figure import Figure

from foretune.methods import make_method
from foretune.runs import memory_bench
from foretune.runs.memory_case import INFERENCE
from foretune.runs.step_row import FLOOR, PUBLISHED, SHARE, SPEED_UP, STEP, TO_FLOOR, Row

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "performance.md"
TEMPLATE = Path(__file__).resolve().parent / "performance.template.md"
"""The words of the page; what is in braces is made of rows."""
IMAGES = DOCS / "images"

SHAPE = {"model": "opt-125m", "dtype": "float32", "device": "cpu"}
MAIN = {**SHAPE, "batch": 16}
"""What the goals are about."""
FEW = {**MAIN, "batch": 8}
"""Where noise weighs more in the published way."""
SMALL_BATCHES = (1, 4)
"""Rows of batches in which weights dominate, where engines differ most."""
MINI = {**MAIN, "model": "mini"}
"""Where every method is measured with every scheme and objective, in minutes."""
NOT_MEASURED = "Not measured yet."
_TUNINGS = ("full", "lora", "prefix", "prompt")

Measured = TypeVar("Measured", Row, memory_bench.Row, noise.Row)


@dataclass(frozen=True, slots=True)
class Ledgers:
    """The latest figure of each kind.

    Attributes:
        steps: Of results/step.csv.
        memory: Of results/memory.csv.
        noise: Of results/noise.csv.
    """

    steps: Sequence[Row]
    memory: Sequence[memory_bench.Row]
    noise: Sequence[noise.Row]

    @classmethod
    def read(cls, folder: Path = RESULTS) -> Ledgers:
        """Read the files of a folder; one that is missing is empty."""
        return cls(
            of_one_machine(latest(read_rows(folder / "step.csv", Row), lambda row: row.key)),
            sorted(latest(read_rows(folder / "memory.csv", memory_bench.Row), _memory_key), key=_memory_place),
            latest(read_rows(folder / "noise.csv", noise.Row), lambda row: (row.device, row.dtype, row.case)),
        )


def latest(rows: Iterable[Measured], key: object) -> list[Measured]:
    """Return the last row of each key, in the order in which the keys were first measured."""
    return list({key(row): row for row in rows}.values())  # type: ignore[operator]


def of_one_machine(rows: Sequence[Row]) -> list[Row]:
    """Return of each workload what was measured on the machine of its latest floor: others had another floor."""
    machines = {row.place: row.machine for row in rows if row.method == FLOOR}
    return [row for row in rows if row.machine == machines.get(row.place, row.machine)]


def _memory_key(row: memory_bench.Row) -> tuple[object, ...]:
    place = (row.model, row.dtype, row.device, row.batch_size, row.sequence_length, row.objective)
    return (*place, row.method, row.engine, row.tuning)


def _memory_place(row: memory_bench.Row) -> tuple[object, ...]:
    """Say where a row stands in its table: by scheme; inference first, first-order methods last."""
    is_inference = row.method == INFERENCE
    return _TUNINGS.index(row.tuning), not is_inference, row.engine == "-", row.method


# ---------------------------------------------------------------- tables


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *lines))


def _selected(rows: Iterable[Row], **fields: object) -> list[Row]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in fields.items())]


def _contestants(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Return the figures of every contestant by what they are; the baselines come first."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.label, {})[row.what] = row
    return dict(sorted(found.items(), key=lambda item: (item[0] != FLOOR, item[0] != PUBLISHED, item[0])))


def usual(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of methods with their own rank and number of directions; all of a method that has none such."""
    rows = list(rows)
    found = [row for row in rows if _has_own_settings(row)]
    methods = {row.method for row in found}
    return [row for row in rows if row in found or row.method not in methods]


def _has_own_settings(row: Row) -> bool:
    if row.method in (FLOOR, PUBLISHED):
        return True
    method = make_method(row.method, {}, total_steps=1, tuning=row.tuning)
    return all(getattr(row, name) in ("", getattr(method, name, "")) for name in ("num_directions", "rank"))


def _spread(row: Row | None, digits: int) -> str:
    if row is None:
        return ""
    value, low, high = (f"{number:.{digits}f}" for number in (row.value, row.low, row.high))
    return f"{value} ({low}-{high})"


def step_table(rows: Sequence[Row]) -> str:
    """Return the whole table of one workload."""
    lines = [
        [
            name,
            _spread(found[STEP], 2),
            _spread(found.get(TO_FLOOR), 3),
            _spread(found.get(SPEED_UP), 1),
            f"{100 * found[SHARE].value:.0f} %" if SHARE in found else "",
            str(found[STEP].n),
            f"{found[STEP].commit}{'+' if found[STEP].dirty else ''}",
        ]
        for name, found in _contestants(rows).items()
        if STEP in found
    ]
    columns = ("", "step, s", "x floor", "published / it", "noise + update", "rounds", "commit")
    return table(columns, lines) if lines else NOT_MEASURED


def scheme_table(rows: Sequence[Row]) -> str:
    """Return a line a contestant, a column a tuning scheme: x floor, and the share of noise and update."""
    cells: dict[str, dict[str, str]] = {}
    for tuning in _TUNINGS:
        for name, found in _contestants(_selected(rows, tuning=tuning)).items():
            if TO_FLOOR in found:
                share = f", {100 * found[SHARE].value:.1f} %" if SHARE in found else ""
                cells.setdefault(name, {})[tuning] = f"{found[TO_FLOOR].value:.3f}{share}"
    lines = [[name, *(found.get(tuning, "") for tuning in _TUNINGS)] for name, found in cells.items()]
    return table(("", *_TUNINGS), lines) if lines else NOT_MEASURED


def engine_table(rows: Sequence[Row]) -> str:
    """Return a line a contestant, a column a tuning scheme and a number of rows: x floor."""
    places = [(tuning, batch) for tuning in ("full", "lora") for batch in SMALL_BATCHES]
    found = [_contestants(_selected(rows, tuning=tuning, batch=batch, what=TO_FLOOR)) for tuning, batch in places]
    names = sorted({name for contestants in found for name in contestants} - {PUBLISHED})
    lines = [[name, *(_spread(of_place.get(name, {}).get(TO_FLOOR), 2) for of_place in found)] for name in names]
    columns = ("", *(f"{tuning}, {batch} row{'' if batch == 1 else 's'}" for tuning, batch in places))
    return table(columns, lines) if lines else NOT_MEASURED


def _grown(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that growth is shown with: other engines and schemes have tables of their own."""
    return [row for row in _selected(rows, device="cpu", tuning="full") if row.engine in ("layerwise", "-")]


def growth_tables(rows: Iterable[Row]) -> str:
    """Return what full tuning takes in units of the floor, for every quantity of which enough values were measured."""
    rows = [row for row in _grown(rows) if row.what == TO_FLOOR and row.method != PUBLISHED]
    tables = []
    for kind in figures.GROWTHS:
        lines = figures.growth_lines(rows, kind)
        values = sorted({value for points in lines.values() for value, _ in points})
        found = [
            [label, *(f"{ratios[value]:.3f}" if value in ratios else "" for value in values)]
            for label, points in lines.items()
            if (ratios := dict(points))
        ]
        if found:
            unit = 1e6 if kind.field == "num_parameters" else 1
            tables.append(table((kind.label, *(f"{value / unit:.4g}" for value in values)), found))
    return "\n\n".join(tables) or NOT_MEASURED


def gpu_tables(rows: Sequence[Row]) -> str:
    """Return a table of schemes for every workload on a GPU."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in _selected(rows, device="cuda"):
        place = (row.machine, row.model, row.dtype, f"{row.objective} loss", f"{row.batch} x {row.tokens} tokens")
        found.setdefault(place, []).append(row)
    if not found:
        return NOT_MEASURED
    return "\n\n".join(f"{', '.join(map(str, place))}:\n\n{scheme_table(group)}" for place, group in found.items())


def noise_table(rows: Sequence[noise.Row]) -> str:
    """Return what an element of each kernel takes."""
    lines = [
        [
            row.device,
            row.dtype,
            row.case,
            f"{row.nanoseconds:.3f}",
            f"{row.gigabytes_per_second:.1f}",
            f"{100 * row.of_copy:.0f} %",
            f"{row.speed_up:.1f}",
            f"{row.machine}, {row.threads} threads" if row.device == "cpu" else row.machine,
            f"{row.commit}{'+' if row.dirty else ''}",
        ]
        for row in rows
    ]
    columns = ("device", "dtype", "case", "ns", "GB/s", "of a copy", "torch.normal / it", "machine", "commit")
    return table(columns, lines) if lines else NOT_MEASURED


def memory_tables(rows: Sequence[memory_bench.Row]) -> str:
    """Return a table for every model and batch: each peak beside what it should be, and what was predicted."""
    found: dict[str, list[memory_bench.Row]] = {}
    for row in rows:
        batch = f"{row.objective} loss, {row.batch_size} x {row.sequence_length} tokens"
        found.setdefault(f"{row.model}, {batch}, {row.dtype}", []).append(row)
    if not found:
        return NOT_MEASURED
    columns = ("method", "tuning", "peak", "inference", "layer", "state", "above", "kept", "predicted", "error, %")
    tables = (f"{place}:\n\n{table(columns, map(_memory_line, group))}" for place, group in found.items())
    return "\n\n".join(tables)


def _memory_line(row: memory_bench.Row) -> list[str]:
    place = [row.method, row.tuning]
    predicted = _mib(row.predicted_bytes) if row.predicted_bytes else ""
    if row.failure:
        return [*place, row.failure, *[""] * 5, predicted, ""]
    promised = [""] * 4
    if row.is_promised:
        kept = "yes" if row.keeps_promise else "**no**"
        promised = [*map(_mib, (row.layer_bytes, row.state_bytes, row.excess_bytes)), kept]
    inference = _mib(row.inference_bytes) if row.inference_bytes else ""
    error = f"{100 * (row.predicted_bytes / row.peak_bytes - 1):.1f}" if predicted else ""
    return [*place, _mib(row.peak_bytes), inference, *promised, predicted, error]


def _mib(number: int) -> str:
    return f"{number / 2**20:.1f}"


# ---------------------------------------------------------------- the page


def page(ledgers: Ledgers) -> str:
    """Return the whole page."""
    main, mini = (usual(_selected(ledgers.steps, **which, tokens="48")) for which in (MAIN, MINI))
    mixed = usual(_selected(ledgers.steps, **MAIN, tokens="9-58"))
    drawn = plots(ledgers)
    return TEMPLATE.read_text().format(
        versions=_versions(ledgers.steps),
        step=step_table(_selected(main, tuning="full", objective="classification")),
        mixed=step_table(_selected(mixed, tuning="full", objective="classification")),
        lm=step_table(_selected(main, tuning="full", objective="lm")),
        lm_few=step_table(_selected(ledgers.steps, **FEW, tokens="48", tuning="full", objective="lm")),
        classification_schemes=scheme_table(_selected(main, objective="classification")),
        lm_schemes=scheme_table(_selected(main, objective="lm")),
        mini_classification_schemes=scheme_table(_selected(mini, objective="classification")),
        mini_lm_schemes=scheme_table(_selected(mini, objective="lm")),
        growth_ratios=growth_tables(ledgers.steps),
        engines=engine_table(_selected(ledgers.steps, **SHAPE, tokens="48", objective="classification")),
        gpu=gpu_tables(ledgers.steps),
        noise=noise_table(ledgers.noise),
        memory=memory_tables(ledgers.memory),
        **{name: _image(name, text) if name in drawn else NOT_MEASURED for name, text in PLOTS.items()},
    )


PLOTS = {
    "step_breakdown": "Parts of a step, in units of as many bare forwards",
    "growth": "Time of a step against parameters, tokens and rows",
    "memory_peaks": "Peak memory, in units of inference",
}


def plots(ledgers: Ledgers) -> Mapping[str, Figure]:
    """Return the plots that there are rows for."""
    main = usual(_selected(ledgers.steps, **MAIN, tuning="full", objective="classification", tokens="48"))
    drawn = {
        "step_breakdown": figures.step_breakdown(main),
        "growth": figures.growth(_grown(ledgers.steps)),
        "memory_peaks": figures.memory(ledgers.memory),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _image(name: str, text: str) -> str:
    return f"![{text}](images/{name}.svg)"


def _versions(rows: Sequence[Row]) -> str:
    """Return the machines and versions that steps were measured with."""
    found = dict.fromkeys(
        f"- {row.machine}, {row.threads} threads, Python {row.python}, torch {row.torch}, "
        f"transformers {row.transformers}"
        for row in rows
    )
    return "\n".join(found) or NOT_MEASURED


def main() -> None:
    """Write the page and its plots."""
    ledgers = Ledgers.read()
    PAGE.write_text(page(ledgers))
    for name, figure in plots(ledgers).items():
        figures.save(figure, IMAGES / f"{name}.svg")


if __name__ == "__main__":
    main()
