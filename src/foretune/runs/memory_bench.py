"""A table of measured memory and time: shapes, lengths and methods, each combination in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from foretune.adapters import make_tuning
from foretune.errors import IncompatibleError, UsageError
from foretune.methods import RECIPES, AbstractFirstOrder, make_recipe
from foretune.runs.config import EVERY, EstimateConfig, MemoryBenchConfig
from foretune.runs.csv_rows import append_rows, check_columns
from foretune.runs.estimate import estimate
from foretune.runs.loading import resolve_device, resolve_dtype
from foretune.runs.memory_case import INFERENCE, Case, Measured, check_supported, measure
from foretune.runs.provenance import Provenance
from foretune.runs.shapes import check_length, check_objective, load_shape, shape_dtype

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLOT_SUFFIXES = (".png", ".svg", ".pdf")
_LINE_STYLES = (":", "-", "--", "-.")

REPEATABLE_BYTES, REPEATABLE_SHARE = 1 << 20, 0.002
"""What a peak is known to: an allocator keeps pieces, and rounds the size of every tensor up to pages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row(Provenance):
    """One case: what was measured, what was predicted, and inference to compare with.

    Attributes:
        peak_bytes, process_bytes, seconds_per_step, failure: As measured.
        predicted_bytes: Peak, by `foretune estimate`; 0 where it says nothing, as of the next two.
        layer_bytes: The largest layer that is perturbed, and the small tensors that the engine holds.
        state_bytes: What is kept between steps.
        inference_bytes: Peak of inference with the same model, adapter and batch, as measured; 0 where that failed.
    """

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
    inference_bytes: int
    layer_bytes: int
    state_bytes: int
    process_bytes: int
    seconds_per_step: float
    failure: str

    @property
    def is_promised(self) -> bool:
        """Whether the method perturbs, and so should need no more than inference, one layer and its state."""
        return self.layer_bytes > 0 and not self.failure and self.inference_bytes > 0

    @property
    def excess_bytes(self) -> int:
        """What the peak is above inference, one layer and state."""
        return self.peak_bytes - self.inference_bytes - self.layer_bytes - self.state_bytes

    @property
    def keeps_promise(self) -> bool:
        """Whether that is nothing, as far as can be measured."""
        return self.excess_bytes <= max(REPEATABLE_BYTES, REPEATABLE_SHARE * self.peak_bytes)


def make_cases(config: MemoryBenchConfig) -> list[Case]:
    """Return what is to be measured, in order; inference comes first for each model, length and tuning scheme.

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
        check_objective(shape, config.objective)
        wanted = resolve_dtype(config.dtype, device)
        dtype: Any = str(wanted if isinstance(wanted, torch.dtype) else shape_dtype(shape)).removeprefix("torch.")
        for length, tuning in product(config.lengths, config.tunings):
            virtual = getattr(make_tuning({"name": tuning}), "num_virtual_tokens", 0)
            check_length(shape, length, num_virtual_tokens=virtual, option="--lengths")
            inference = Case(
                model=model,
                method=INFERENCE,
                tuning=tuning,
                batch_size=config.batch_size,
                sequence_length=length,
                objective=config.objective,
                dtype=dtype,
                engine=config.engine,
                device=str(device),
                steps=config.steps,
            )
            cases.append(inference)
            for method in _methods(config.methods, tuning):
                make_recipe(method, {}, total_steps=1, tuning=tuning)
                cases.append(replace(inference, method=method))
    return cases


def _methods(names: Sequence[str], tuning: str) -> list[str]:
    """Return the methods that are meant, each once."""
    if EVERY not in names:
        return list(dict.fromkeys(names))
    return [name for name in RECIPES if tuning in RECIPES.get(name).schemes]


def _check_file(option: str, name: str | None, suffixes: tuple[str, ...]) -> None:
    if name is None:
        return
    if Path(name).suffix not in suffixes or not Path(name).absolute().parent.is_dir():
        raise UsageError(f"--{option} {name}: give a file ({', '.join(suffixes)}) in a folder that exists.")
    if option == "csv":
        check_columns(Path(name), Row)


def run_bench(config: MemoryBenchConfig, measured: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Measure all cases one after the other, a failure being a row like any other; write the files asked for.

    Args:
        config: What is measured.
        measured: Called with each row when it is there.
    Raises:
        UsageError: an option is wrong; nothing was measured yet.
    """
    rows: list[Row] = []
    inference = 0
    for case in make_cases(config):
        found = measure(case)
        inference = found.peak_bytes if case.method == INFERENCE else inference
        row = _row(case, found, inference)
        rows.append(row)
        measured(row)
        if config.csv is not None:
            append_rows(Path(config.csv), [row], digits=6)
    if config.plot is not None:
        plot(rows).savefig(config.plot, dpi=150, bbox_inches="tight")
    return rows


def _row(case: Case, found: Measured, inference: int) -> Row:
    settings: dict[str, Any] = {name: value for name, value in asdict(case).items() if name != "steps"}
    if case.method == INFERENCE or _is_first_order(case.method):
        settings["engine"] = "-"
    here = asdict(Provenance.here(case.device))
    return Row(**here, **settings, **asdict(found), **asdict(_predict(case)), inference_bytes=inference)


@dataclass(frozen=True, slots=True)
class _Predicted:
    """What `foretune estimate` says of a case; 0 where it says nothing."""

    predicted_bytes: int = 0
    layer_bytes: int = 0
    state_bytes: int = 0


def predicted_bytes(case: Case) -> int:
    """Return the peak that `foretune estimate` predicts for a case; 0 where it cannot."""
    return _predict(case).predicted_bytes


def _predict(case: Case) -> _Predicted:
    is_inference = case.method == INFERENCE
    asked = EstimateConfig(
        model=case.model,
        method={"name": "sgd" if is_inference else case.method},
        tuning={"name": case.tuning},
        batch_size=case.batch_size,
        sequence_length=case.sequence_length,
        objective=case.objective,
        dtype=case.dtype,
        device=case.device,
        engine="auto" if is_inference or _is_first_order(case.method) else case.engine,
    )
    try:
        found = estimate(asked)
    except IncompatibleError:
        return _Predicted()
    peak = found.inference_peak if is_inference else found.peak
    return _Predicted(peak, found.layer, found.state)


def _is_first_order(method: str) -> bool:
    return method != INFERENCE and isinstance(make_recipe(method, {}, total_steps=1), AbstractFirstOrder)


def plot(rows: Sequence[Row]) -> Figure:
    """Draw peak memory by length: a panel for each model, a colour for each method, a style for each tuning scheme.

    What failed is left out.
    """
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(5.5 * len(models), 4.2))
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
                label=f"{method}, {tuning}",
            )
        axes.set(title=model, xlabel="tokens of a row", ylabel="peak memory, GiB", ylim=(0, None))
        axes.legend(fontsize="small")
    return figure
