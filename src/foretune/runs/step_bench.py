"""The time of a step beside its floor and the published way, all in turns on one model and batch."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foretune.adapters import make_tuning
from foretune.catalogue import num_forwards
from foretune.engine import ENGINES, EngineName
from foretune.errors import IncompatibleError, UsageError, near_misses
from foretune.methods import METHODS, AbstractMethod, make_method
from foretune.objectives.split_head import find_split_head
from foretune.objectives.tied_head import find_tied_head
from foretune.optimizer import Optimizer
from foretune.runs import published_way
from foretune.runs.config import EVERY, StepBenchConfig
from foretune.runs.csv_rows import append_rows, check_columns
from foretune.runs.loading import check_kind, resolve_device, resolve_dtype
from foretune.runs.provenance import Provenance
from foretune.runs.shapes import check_length, load_shape, random_model, shape_dtype
from foretune.runs.step_row import (
    FLOOR,
    FORWARD_TO_FLOOR,
    PUBLISHED,
    SHARE,
    SPEED_UP,
    STEP,
    TO_FLOOR,
    Row,
    Workload,
    parse_tokens,
)
from foretune.runs.synthetic import probe_loss, synthetic_rows, two_words_behind
from foretune.runs.timing import PARTS, Case, Clock, Seconds, Spread, TimedStep, interleave, timed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_LR = 1e-7
_TOTAL_STEPS = 20_000
_STATE_SHARE = 0.25
"""Of the memory, that the states of contestants that take turns may hold."""
_NO_ROOM = "out of memory"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A method with an engine.

    Attributes:
        method: Its registered name.
        options: Settings that were asked for.
        engine: Asked for; ``auto`` names none yet.
    """

    method: str
    options: tuple[tuple[str, int], ...]
    engine: EngineName

    def recipe(self, tuning: str) -> AbstractMethod:
        """Build the method.

        Raises:
            UsageError: it has no such setting, or is not defined for the scheme.
        """
        return make_method(self.method, {"lr": _LR, **dict(self.options)}, total_steps=_TOTAL_STEPS, tuning=tuning)

    def __str__(self) -> str:
        options = ", ".join(f"{name} {value}" for name, value in self.options)
        return f"{self.method}/{self.engine}" + (f" ({options})" if options else "")


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured on one workload.

    Attributes:
        workload: The model and the batch.
        rows: The figures, contestant by contestant.
        left_out: Names of contestants that cannot be measured there, each with the reason.
    """

    workload: Workload
    rows: list[Row]
    left_out: list[tuple[str, str]]


def run_step_bench(config: StepBenchConfig, finished: Callable[[Table], None] = lambda table: None) -> list[Table]:
    """Measure table after table; the CSV file asked for gets the rows of each when it is there.

    A table is a model with a tuning scheme, an objective and a batch; the floor, the published way and all contestants
    take turns on it. Contestants whose states together would take more than a quarter of the memory take turns in
    groups, each with a floor of its own.

    Args:
        config: What is measured.
        finished: Called with each table.
    Raises:
        UsageError: an option is wrong; nothing was measured yet.
    """
    config.check()
    path = _csv_path(config.csv)
    contestants = _contestants(config)
    device = resolve_device(config.device)
    shapes = [_shape(name, config) for name in config.model]
    tables = []
    for shape, tuning in product(shapes, config.tuning):
        wanted = resolve_dtype(config.dtype, device)
        dtype = wanted if isinstance(wanted, torch.dtype) else shape_dtype(shape)
        base = random_model(shape, dtype=dtype, device=device)
        num_parameters = sum(parameter.numel() for parameter in base.parameters())
        model = make_tuning({"name": tuning}).attach(base, seed=0).eval()
        for objective, batch, tokens in product(config.objective, config.batch, config.tokens):
            workload = Workload(
                model=str(shape.name_or_path),
                num_parameters=num_parameters,
                dtype=str(dtype).removeprefix("torch."),
                device=device.type,
                tuning=tuning,
                objective=objective,
                batch=batch,
                tokens=tokens,
            )
            table = _measure(workload, model, shape, contestants, config)
            tables.append(table)
            if path is not None:
                append_rows(path, table.rows, digits=6)
            finished(table)
        del base, model
        gc.collect()  # modules point at each other, and the next model needs the room
    return tables


# ---------------------------------------------------------------- what is measured


def _csv_path(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.suffix != ".csv" or not path.absolute().parent.is_dir():
        raise UsageError(f"--csv {name}: give a .csv file in a folder that exists.")
    check_columns(path, Row)
    return path


def _contestants(config: StepBenchConfig) -> list[Contestant]:
    """Return every method with every engine and setting; refuse what is defined for none of the schemes."""
    for engine in config.engines:
        if engine not in ENGINES:
            raise UsageError(f"--engines {engine}: there is no such engine.{near_misses(engine, ENGINES)}")
    for tuning in config.tuning:
        make_tuning({"name": tuning})
    methods = list(METHODS) if EVERY in config.methods else config.methods
    settings = {name: values for name in ("num_directions", "rank") if (values := getattr(config, name)) is not None}
    found: list[Contestant] = []
    for method, engine, values in product(methods, config.engines, product(*settings.values())):
        options = tuple(zip(settings, values, strict=True))
        contestant = Contestant(method=method, options=options, engine=engine)  # type: ignore[arg-type]
        if EVERY not in config.methods:
            contestant.recipe(next((t for t in config.tuning if t in METHODS.get(method).schemes), config.tuning[0]))
        found.append(contestant)
    return found


def _shape(model: str, config: StepBenchConfig) -> PreTrainedConfig:
    """Return a model's configuration; refuse rows that it has no positions for."""
    shape = load_shape(model)
    check_kind(shape, "causal")
    for tuning, tokens in product(config.tuning, config.tokens):
        virtual = getattr(make_tuning({"name": tuning}), "num_virtual_tokens", 0)
        check_length(shape, parse_tokens(tokens)[1], num_virtual_tokens=virtual, option="--tokens")
    return shape


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class _Losses:
    """The two ways to evaluate one batch, and the clock of the device that does."""

    ours: Callable[[], Tensor]
    published: Callable[[], Tensor]
    clock: Clock

    @classmethod
    def of(cls, workload: Workload, model: nn.Module, shape: PreTrainedConfig) -> _Losses:
        """Make a batch of random tokens."""
        rows = [
            synthetic_rows(shape, num_rows=1, length=length, seed=number)[0]
            for number, length in enumerate(workload.lengths)
        ]
        ours = probe_loss(workload.objective, rows, model, find_split_head(model), find_tied_head(model))
        device = _device_of(model)
        if workload.objective == "lm":
            published = partial(published_way.lm_loss, model, published_way.collate(rows, device))
        else:
            batch = published_way.collate(two_words_behind(rows), device)
            published = partial(published_way.classification_loss, model, batch)
        return cls(ours, published, Clock(device))

    @torch.inference_mode()
    def two_forwards(self) -> None:
        """Do what the floor does."""
        for _ in range(2):
            self.ours().item()


def _measure(
    workload: Workload,
    model: nn.Module,
    shape: PreTrainedConfig,
    contestants: Sequence[Contestant],
    config: StepBenchConfig,
) -> Table:
    """Measure all contestants on one workload."""
    losses = _Losses.of(workload, model, shape)
    common = {**asdict(Provenance.here(_device_of(model))), **asdict(workload)}
    table = Table(workload, [], [])
    optimizers: dict[Contestant, Optimizer] = {}
    for contestant in contestants:
        try:
            recipe = contestant.recipe(workload.tuning)
            optimizers[contestant] = Optimizer(model, **recipe.optimizer_arguments(), engine=contestant.engine)
        except (UsageError, IncompatibleError) as error:
            table.left_out.append((str(contestant), str(error)))
    published = None if config.skip_published else published_way.PublishedMeZO(model, lr=_LR)
    for group in _groups(optimizers, _device_of(model)):
        steps, measured = _rounds(losses, published, group, config.repeats, table.left_out)
        rows = _baseline_rows(common, measured)
        table.rows.extend(row for row in rows if all(row.key != known.key for known in table.rows))
        for contestant in steps:
            table.rows.extend(_step_rows(common, contestant, group[contestant], measured))
        steps.clear()
        group.clear()
        gc.collect()  # a timed step and its optimizer point at each other, and the next group needs the room
    return table


def _groups(optimizers: dict[Contestant, Optimizer], device: torch.device) -> Iterator[dict[Contestant, Optimizer]]:
    """Part the contestants so that what a group keeps between steps stays within its share of the memory.

    An optimizer is taken out of `optimizers` when its group is measured.
    """
    limit = _STATE_SHARE * _memory_bytes(device)
    group: dict[Contestant, Optimizer] = {}
    taken = 0
    for contestant in list(optimizers):
        optimizer = optimizers.pop(contestant)
        copies = sum(t.parameter.numel() * t.parameter.itemsize for t in optimizer.trainables)
        kept = optimizer.state_bytes + (copies if contestant.engine == "in_place" else 0)
        if group and taken + kept > limit:
            yield group
            group, taken = {}, 0
        group[contestant] = optimizer
        taken += kept
    if group:
        yield group


def _memory_bytes(device: torch.device) -> int:
    """Return the memory of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _rounds(
    losses: _Losses,
    published: published_way.PublishedMeZO | None,
    group: dict[Contestant, Optimizer],
    repeats: int,
    left_out: list[tuple[str, str]],
) -> tuple[dict[Contestant, TimedStep], dict[str, list[Seconds]]]:
    """Let the floor, the published way and a group of contestants take turns; note who cannot."""
    cases: dict[str, Case] = {FLOOR: timed(losses.two_forwards, losses.clock)}
    device = losses.clock.device
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):  # the published way draws from it
        if published is not None and (PUBLISHED, _NO_ROOM) not in left_out:
            step = partial(published.step, losses.published)
            try:
                step()
                cases[PUBLISHED] = timed(step, losses.clock)
            except torch.OutOfMemoryError:
                left_out.append((PUBLISHED, _NO_ROOM))
        steps: dict[Contestant, TimedStep] = {}
        for contestant in list(group):
            try:
                steps[contestant] = TimedStep(group[contestant], losses.ours, losses.clock)
            except (IncompatibleError, torch.OutOfMemoryError) as error:
                reason = str(error) if isinstance(error, IncompatibleError) else _NO_ROOM
                left_out.append((str(contestant), reason))
                del group[contestant]
        return steps, interleave({**cases, **{str(contestant): step for contestant, step in steps.items()}}, repeats)


# ---------------------------------------------------------------- rows


def _baseline_rows(common: dict[str, Any], measured: dict[str, list[Seconds]]) -> list[Row]:
    """Return the figures of the floor and the published way."""
    rows = []
    for name in (FLOOR, PUBLISHED):
        if name in measured:
            about = {"method": name, "engine": "-", "num_directions": "", "rank": "", "forwards": 2}
            whole, bare = _whole(measured[name]), _whole(measured[FLOOR])
            rows.append(_row(common | about, STEP, Spread.of(whole), "s"))
            if name != FLOOR:
                rows.append(_row(common | about, TO_FLOOR, Spread.of_ratio(whole, bare), "x"))
    return rows


def _step_rows(
    common: dict[str, Any], contestant: Contestant, optimizer: Optimizer, measured: dict[str, list[Seconds]]
) -> list[Row]:
    """Return the figures of a contestant, compared with baselines of as many forwards."""
    recipe, samples = contestant.recipe(common["tuning"]), measured[str(contestant)]
    forwards = num_forwards(optimizer.parts, optimizer.trainables)
    about = common | {
        "method": contestant.method,
        "engine": optimizer.engine_name,
        "forwards": forwards,
        **{name: _setting(recipe, name) for name in ("num_directions", "rank")},
    }
    whole, forward = _whole(samples), [seconds["forward"] for seconds in samples]
    bare = [forwards / 2 * seconds for seconds in _whole(measured[FLOOR])]
    shares = [(seconds["noise"] + seconds["update"]) / seconds[STEP] for seconds in samples]
    rows = [_row(about, what, Spread.of([seconds[what] for seconds in samples]), "s") for what in (STEP, *PARTS)]
    rows.append(_row(about, SHARE, Spread.of(shares), "of step"))
    rows.append(_row(about, TO_FLOOR, Spread.of_ratio(whole, bare), "x"))
    rows.append(_row(about, FORWARD_TO_FLOOR, Spread.of_ratio(forward, bare), "x"))
    if PUBLISHED in measured:
        usual = [forwards / 2 * seconds for seconds in _whole(measured[PUBLISHED])]
        rows.append(_row(about, SPEED_UP, Spread.of_ratio(usual, whole), "x"))
    return rows


def _row(about: dict[str, Any], what: str, spread: Spread, unit: str) -> Row:
    return Row(**about, what=what, unit=unit, **asdict(spread))


def _whole(samples: list[Seconds]) -> list[float]:
    return [seconds[STEP] for seconds in samples]


def _setting(recipe: AbstractMethod, name: str) -> int | str:
    value = getattr(recipe, name, None)
    return "" if value is None else value


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
