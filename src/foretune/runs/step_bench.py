"""The time of a step beside its floor and the published way, all in turns on one model and batch."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
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
from foretune.runs.config import ProbedObjective, StepBenchConfig
from foretune.runs.csv_rows import append_rows, check_columns
from foretune.runs.loading import check_kind, resolve_device, resolve_dtype
from foretune.runs.provenance import Provenance
from foretune.runs.shapes import check_length, load_shape, random_model, shape_dtype
from foretune.runs.synthetic import probe_loss, synthetic_rows, two_words_behind
from foretune.runs.timing import PARTS, Case, Clock, Seconds, Spread, TimedStep, interleave, timed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FLOOR = "floor"
"""Two forwards of the same objective without a perturbation."""
PUBLISHED = "published"
"""MeZO as it is usually published (`foretune.runs.published_way`)."""
EVERY = "all"

STEP, SHARE = "step", "noise and update share"
TO_FLOOR, FORWARD_TO_FLOOR, SPEED_UP = "ratio to floor", "forward ratio to floor", "speed-up over published"

_LR = 1e-7
_TOTAL_STEPS = 20_000
_STATE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A model and a batch: what all contestants of a table evaluate.

    Attributes:
        model: Shape, folder or hub id; its weights are random.
        num_parameters: Of the base model.
        dtype, device: Of its weights.
        tuning: Scheme.
        objective: ``lm`` or ``classification``.
        batch: Rows.
        tokens: Tokens of a row, or ``FIRST-LAST``.
    """

    model: str
    num_parameters: int
    dtype: str
    device: str
    tuning: str
    objective: ProbedObjective
    batch: int
    tokens: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        shortest, longest = parse_tokens(self.tokens)
        steps = max(self.batch - 1, 1)
        return [longest - round(row * (longest - shortest) / steps) for row in range(self.batch)]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure and everything one needs to judge it: a row of the ledger.

    Attributes:
        date, commit, dirty, machine, cores, threads, python, torch, transformers, foretune: As in `Provenance`.
        model, num_parameters, dtype, device, tuning, objective, batch, tokens: As in `Workload`.
        method: A method's name, `FLOOR` or `PUBLISHED`.
        engine: That measured; ``-`` for the latter two.
        num_directions, rank: Of the method; empty where it has no such setting.
        forwards: Evaluations of the loss in a step, as the method declares them.
        what: `STEP`, one of `PARTS`, `SHARE`, or a ratio: `TO_FLOOR` and `FORWARD_TO_FLOOR` to as many bare forwards,
            `SPEED_UP` of the published way with as many forwards over this.
        value: Median of `n` rounds.
        unit: Of value, low and high.
        low, high: The 20 and 80 % quantiles.
        n: Rounds.
    """

    date: str
    commit: str
    dirty: int
    machine: str
    cores: int
    threads: int
    python: str
    torch: str
    transformers: str
    foretune: str
    model: str
    num_parameters: int
    dtype: str
    device: str
    tuning: str
    objective: str
    batch: int
    tokens: str
    method: str
    engine: str
    num_directions: int | str
    rank: int | str
    forwards: int
    what: str
    value: float
    unit: str
    low: float
    high: float
    n: int

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it the same figure, measured again."""
        return (*self.place, self.method, self.engine, self.num_directions, self.rank, self.what)

    @property
    def label(self) -> str:
        """How tables call the contestant: ``lozo, layerwise, rank 2``; one direction and no rank go without saying."""
        words = [self.method]
        if self.engine != "-":
            words.append(self.engine)
        if self.num_directions not in ("", 1):
            words.append(f"q {self.num_directions}")
        if self.rank != "":
            words.append(f"rank {self.rank}")
        return ", ".join(words)

    @property
    def place(self) -> tuple[object, ...]:
        """The workload that it is a figure of."""
        return tuple(getattr(self, field.name) for field in fields(Workload))


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured on one workload.

    Attributes:
        workload: The model and the batch.
        rows: The figures, contestant by contestant.
        left_out: Contestants that cannot be measured there, each with the reason.
    """

    workload: Workload
    rows: list[Row]
    left_out: list[tuple[Contestant, str]]


def parse_tokens(text: str) -> tuple[int, int]:
    """Return the shortest and the longest row that ``48`` or ``9-58`` means.

    Raises:
        UsageError: it is of another form, or a row would have less than two tokens.
    """
    form = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    shortest, longest = (int(form[1]), int(form[2] or form[1])) if form else (0, 0)
    if not 2 <= shortest <= longest:
        raise UsageError(f"--tokens {text}: give a length of at least 2, such as 48, or a range, such as 9-58.")
    return shortest, longest


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
    methods = list(METHODS) if config.methods == [EVERY] else config.methods
    settings = {name: values for name in ("num_directions", "rank") if (values := getattr(config, name)) is not None}
    found: list[Contestant] = []
    for method, engine, values in product(methods, config.engines, product(*settings.values())):
        options = tuple(zip(settings, values, strict=True))
        contestant = Contestant(method=method, options=options, engine=engine)  # type: ignore[arg-type]
        if config.methods != [EVERY]:
            contestant.recipe(next((t for t in config.tuning if t in METHODS.get(method).schemes), config.tuning[0]))
        found.append(contestant)
    return found


def _shape(model: str, config: StepBenchConfig) -> PreTrainedConfig:
    """Return a model's configuration; refuse rows that it has no positions for."""
    shape = load_shape(model)
    check_kind(shape, "causal")
    for tuning, tokens in product(config.tuning, config.tokens):
        virtual = getattr(make_tuning({"name": tuning}), "num_virtual_tokens", 0)
        check_length(shape, parse_tokens(tokens)[1], num_virtual_tokens=virtual)
    return shape


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, slots=True)
class _Loss:
    """The two ways to evaluate one batch."""

    ours: Callable[[], Tensor]
    published: Callable[[], Tensor]


def _losses(workload: Workload, model: nn.Module, shape: PreTrainedConfig) -> _Loss:
    rows = [
        synthetic_rows(shape, num_rows=1, length=length, seed=number)[0]
        for number, length in enumerate(workload.lengths)
    ]
    ours = probe_loss(workload.objective, rows, model, find_split_head(model), find_tied_head(model))
    if workload.objective == "lm":
        batch, loss = published_way.collate(rows, workload.device), published_way.lm_loss
    else:
        batch, loss = published_way.collate(two_words_behind(rows), workload.device), published_way.classification_loss
    return _Loss(ours, partial(loss, model, batch))


def _measure(
    workload: Workload,
    model: nn.Module,
    shape: PreTrainedConfig,
    contestants: Sequence[Contestant],
    config: StepBenchConfig,
) -> Table:
    """Measure all contestants on one workload."""
    loss, clock = _losses(workload, model, shape), Clock(workload.device)
    provenance = Provenance.here(workload.device)
    optimizers: dict[Contestant, Optimizer] = {}
    left_out: list[tuple[Contestant, str]] = []
    for contestant in contestants:
        try:
            recipe = contestant.recipe(workload.tuning)
            optimizers[contestant] = Optimizer(model, **recipe.optimizer_arguments(), engine=contestant.engine)
        except (UsageError, IncompatibleError) as error:
            left_out.append((contestant, str(error)))
    rows: list[Row] = []
    for group in _groups(optimizers, workload.device):
        figures = _Figures(provenance, workload, loss, clock)
        figures.measure(model, group, repeats=config.repeats, with_published=not config.skip_published)
        rows += [row for row in figures.rows if row.method not in (FLOOR, PUBLISHED) or not rows]
        left_out += figures.left_out
    return Table(workload, rows, left_out)


def _groups(optimizers: dict[Contestant, Optimizer], device: str) -> Iterator[dict[Contestant, Optimizer]]:
    """Part the contestants so that what a group keeps between steps stays within its share of the memory.

    An optimizer is dropped here when its group is measured.
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


def _memory_bytes(device: str) -> int:
    """Return the memory of the GPU, or of the machine."""
    if device == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Figures:
    """Measures one group of contestants and turns what it finds into rows."""

    def __init__(self, provenance: Provenance, workload: Workload, loss: _Loss, clock: Clock) -> None:
        self._common = {**asdict(provenance), **asdict(workload)}
        self._loss = loss
        self._clock = clock
        self.rows: list[Row] = []
        self.left_out: list[tuple[Contestant, str]] = []

    def measure(
        self, model: nn.Module, group: dict[Contestant, Optimizer], *, repeats: int, with_published: bool
    ) -> None:
        """Run the rounds; the published way draws from the global generators, which are put back."""
        devices = [torch.device(self._common["device"])] if self._common["device"] == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            cases: dict[str, Case] = {FLOOR: timed(self._two_forwards, self._clock)}
            if with_published:
                published = published_way.PublishedMeZO(model, lr=_LR)
                cases[PUBLISHED] = timed(lambda: published.step(self._loss.published), self._clock)
            steps = self._first_steps(group)
            measured = interleave({**cases, **{str(contestant): step for contestant, step in steps.items()}}, repeats)
        floor = measured[FLOOR]
        self._add_baseline(FLOOR, floor, floor)
        if with_published:
            self._add_baseline(PUBLISHED, measured[PUBLISHED], floor)
        for contestant in steps:
            self._add_step(contestant, group[contestant], measured[str(contestant)], floor, measured.get(PUBLISHED))

    @torch.inference_mode()
    def _two_forwards(self) -> None:
        for _ in range(2):
            self._loss.ours().item()

    def _first_steps(self, group: dict[Contestant, Optimizer]) -> dict[Contestant, TimedStep]:
        steps = {}
        for contestant, optimizer in group.items():
            try:
                steps[contestant] = TimedStep(optimizer, self._loss.ours, self._clock)
            except IncompatibleError as error:
                self.left_out.append((contestant, str(error)))
            except torch.OutOfMemoryError:
                self.left_out.append((contestant, "out of memory"))
        return steps

    def _add_baseline(self, name: str, samples: list[Seconds], floor: list[Seconds]) -> None:
        about = {"method": name, "engine": "-", "num_directions": "", "rank": "", "forwards": 2}
        whole, bare = _whole(samples), _whole(floor)
        self._add(about, STEP, Spread.of(whole), "s")
        if name != FLOOR:
            self._add(about, TO_FLOOR, Spread.of_ratio(whole, bare), "x")

    def _add_step(
        self,
        contestant: Contestant,
        optimizer: Optimizer,
        samples: list[Seconds],
        floor: list[Seconds],
        published: list[Seconds] | None,
    ) -> None:
        recipe = contestant.recipe(str(self._common["tuning"]))
        forwards = num_forwards(optimizer.parts, optimizer.trainables)
        about: dict[str, Any] = {
            "method": contestant.method,
            "engine": optimizer.engine_name,
            "forwards": forwards,
            **{name: _setting(recipe, name) for name in ("num_directions", "rank")},
        }
        whole = _whole(samples)
        bare = [forwards / 2 * seconds for seconds in _whole(floor)]
        for what in (STEP, *PARTS):
            self._add(about, what, Spread.of([seconds[what] for seconds in samples]), "s")
        shares = [(seconds["noise"] + seconds["update"]) / seconds[STEP] for seconds in samples]
        self._add(about, SHARE, Spread.of(shares), "of step")
        self._add(about, TO_FLOOR, Spread.of_ratio(whole, bare), "x")
        forward = [seconds["forward"] for seconds in samples]
        self._add(about, FORWARD_TO_FLOOR, Spread.of_ratio(forward, bare), "x")
        if published is not None:
            usual = [forwards / 2 * seconds for seconds in _whole(published)]
            self._add(about, SPEED_UP, Spread.of_ratio(usual, whole), "x")

    def _add(self, about: dict[str, Any], what: str, spread: Spread, unit: str) -> None:
        self.rows.append(Row(**self._common, **about, what=what, unit=unit, **asdict(spread)))


def _whole(samples: list[Seconds]) -> list[float]:
    return [seconds[STEP] for seconds in samples]


def _setting(recipe: AbstractMethod, name: str) -> int | str:
    value = getattr(recipe, name, None)
    return "" if value is None else value
