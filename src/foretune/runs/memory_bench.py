"""A table of measured memory and time: shapes, lengths and methods, each combination in a process of its own."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foretune.adapters import make_tuning
from foretune.errors import IncompatibleError, UsageError
from foretune.methods import AbstractFirstOrder, HybridRecipe, make_recipe
from foretune.runs.config import EstimateConfig, MemoryBenchConfig
from foretune.runs.estimate import Estimate, estimate
from foretune.runs.loading import check_kind, resolve_device, resolve_dtype
from foretune.runs.memory_case import INFERENCE, Case, Measured, check_supported, measure
from foretune.runs.shapes import check_length, load_shape, shape_dtype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_LINE_STYLES = (":", "-", "--", "-.")


@dataclass(frozen=True, slots=True)
class Row:
    """One case: what was measured, what was predicted, and inference to compare with.

    Attributes:
        peak_bytes, process_bytes, seconds_per_step, failure: As measured.
        predicted_bytes: By `foretune estimate`; 0 where it says nothing.
        date, machine, threads, torch, transformers, foretune: When, where and with which versions.
    """

    date: str
    machine: str
    threads: int
    torch: str
    transformers: str
    foretune: str
    model: str
    method: str
    tuning: str
    batch_size: int
    sequence_length: int
    objective: str
    dtype: str
    device: str
    engine: str
    peak_bytes: int
    predicted_bytes: int
    process_bytes: int
    seconds_per_step: float
    failure: str


COLUMNS = [column.name for column in fields(Row)]


def make_cases(config: MemoryBenchConfig) -> list[Case]:
    """Return what is to be measured, in order; inference comes first for each model and length.

    Raises:
        UsageError: naming the option, the value and what would be right; nothing was measured yet.
    """
    config.check()
    for option, suffixes in (("csv", (".csv",)), ("plot", _PLOT_SUFFIXES)):
        _check_file(option, getattr(config, option), suffixes)
    check_supported(config.device)
    device = resolve_device(config.device)
    cases = []
    for model in config.model:
        shape = load_shape(model)
        check_kind(shape, "causal")
        wanted = resolve_dtype(config.dtype, device)
        dtype: Any = str(wanted if isinstance(wanted, torch.dtype) else shape_dtype(shape)).removeprefix("torch.")
        for length in config.lengths:
            inference = Case(
                model=model,
                method=INFERENCE,
                tuning="full",
                batch_size=config.batch_size,
                sequence_length=length,
                objective=config.objective,
                dtype=dtype,
                engine=config.engine,
                device=str(device),
                steps=config.steps,
            )
            cases.append(inference)
            for tuning, method in product(config.tunings, config.methods):
                virtual = getattr(make_tuning({"name": tuning}), "num_virtual_tokens", 0)
                check_length(shape, length, num_virtual_tokens=virtual)
                if isinstance(make_recipe(method, {}, total_steps=1, tuning=tuning), HybridRecipe):
                    raise IncompatibleError(f"--methods {method}: hybrid training is not measured here.")
                cases.append(replace(inference, method=method, tuning=tuning))
    return cases


def _check_file(option: str, name: str | None, suffixes: tuple[str, ...]) -> None:
    if name is None:
        return
    if Path(name).suffix not in suffixes or not Path(name).absolute().parent.is_dir():
        raise UsageError(f"--{option} {name}: give a file ({', '.join(suffixes)}) in a folder that exists.")
    if option == "plot":
        _figure_class()
    elif Path(name).exists():
        with Path(name).open(newline="") as file:
            if next(csv.reader(file), []) != COLUMNS:
                raise UsageError(f"--csv {name} has other columns; choose another file.")


def run_bench(config: MemoryBenchConfig, measured: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Measure all cases one after the other, a failure being a row like any other; write the files asked for.

    Args:
        config: What is measured.
        measured: Called with each row when it is there.
    Raises:
        UsageError: an option is wrong; nothing was measured yet.
    """
    rows = []
    for case in make_cases(config):
        row = _row(case, measure(case))
        rows.append(row)
        measured(row)
        if config.csv is not None:
            _append(Path(config.csv), row)
    if config.plot is not None:
        plot(rows).savefig(config.plot, dpi=150, bbox_inches="tight")
    return rows


def _row(case: Case, found: Measured) -> Row:
    settings: dict[str, Any] = {name: value for name, value in asdict(case).items() if name != "steps"}
    predicted = predicted_bytes(case)
    if case.method == INFERENCE:
        settings["tuning"] = "-"
    if case.method == INFERENCE or _is_first_order(case.method):
        settings["engine"] = "-"
    return Row(**_place(case.device), **settings, **asdict(found), predicted_bytes=predicted)


def _place(device: str) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "transformers", "foretune")}
    machine = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_model()
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"date": date, "machine": machine, "threads": torch.get_num_threads(), **versions}


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def predicted_bytes(case: Case) -> int:
    """Return the peak that `foretune estimate` predicts for a case; 0 where it cannot."""
    asked = EstimateConfig(
        model=case.model,
        method={"name": "mezo" if case.method == INFERENCE else case.method},
        tuning={"name": case.tuning},
        batch_size=case.batch_size,
        sequence_length=case.sequence_length,
        objective=case.objective,
        dtype=case.dtype,
        device=case.device,
        engine="auto" if _is_first_order(case.method) else case.engine,
    )
    try:
        found: Estimate = estimate(asked)
    except IncompatibleError:
        return 0
    return found.inference_peak if case.method == INFERENCE else found.peak


def _is_first_order(method: str) -> bool:
    return method != INFERENCE and isinstance(make_recipe(method, {}, total_steps=1), AbstractFirstOrder)


def _append(path: Path, row: Row) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row) | {"seconds_per_step": f"{row.seconds_per_step:.6g}"})


def plot(rows: Sequence[Row]) -> Figure:
    """Draw peak memory by length: a panel for each model, a colour for each method, a style for each tuning scheme.

    What failed is left out.
    """
    figure_class = _figure_class()
    models = list(dict.fromkeys(row.model for row in rows))
    figure = figure_class(figsize=(5.5 * len(models), 4.2))
    for index, model in enumerate(models):
        axes = figure.add_subplot(1, len(models), index + 1)
        lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for row in rows:
            if row.model == model and not row.failure:
                point = (row.sequence_length, row.peak_bytes / 2**30)
                lines.setdefault((row.method, row.tuning), []).append(point)
        methods, tunings = (list(dict.fromkeys(row[part] for row in lines)) for part in (0, 1))
        for (method, tuning), points in lines.items():
            axes.plot(
                *zip(*sorted(points), strict=True),
                linestyle=_LINE_STYLES[tunings.index(tuning) % len(_LINE_STYLES)],
                color=f"C{methods.index(method)}",
                marker="s" if _is_first_order(method) else "o",
                label=method if method == INFERENCE else f"{method}, {tuning}",
            )
        axes.set(title=model, xlabel="tokens of a row", ylabel="peak memory, GiB", ylim=(0, None))
        axes.legend(fontsize="small")
    return figure


def _figure_class() -> Any:
    """Return matplotlib's figure.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib: pip install 'foretune[plots]'.") from None
    return Figure
