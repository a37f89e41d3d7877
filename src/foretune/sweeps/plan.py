"""From the grids of a sweep to its trials, each with the options of `foretune train`, checked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foretune.adapters import make_tuning
from foretune.catalogue import num_forwards, num_passes, trainables_of
from foretune.composition import AXES
from foretune.errors import IncompatibleError, UsageError
from foretune.ledger import Condition, Run
from foretune.methods import AbstractMethod, make_recipe
from foretune.runs.config import SYNTHETIC, TrainConfig
from foretune.runs.loading import check_model_path
from foretune.runs.train import settings_of
from foretune.sweeps.file import Grid, Sweep
from foretune.sweeps.parameters import Parameter, Values
from foretune.sweeps.selection import BACKWARD_PASSES

Parse = Callable[[Sequence[str]], TrainConfig]
"""Reads the options of `foretune train`."""

_UNUSED_OUTPUT = "trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A trial that is to be run.

    Attributes:
        key: Digest of its settings and the seed: what the ledger calls `config_hash`, and the seed.
        options: Of `foretune train`, by name.
        group: Model, task, method and tuning scheme: trials of a group are tried for the same line of a table.
        suite: The suite it is from.
        chosen_seeds: Further seeds, should its settings be chosen in its group.
        forward_passes: Of all its steps; a backward pass counts as two. None where that depends on a model that cannot
            be read.
    """

    key: str
    options: Mapping[str, Any]
    group: str
    suite: str | None
    chosen_seeds: tuple[int, ...]
    forward_passes: int | None

    @property
    def settings(self) -> str:
        """What trials have in common that differ in their seeds alone."""
        return self.key.rpartition("-")[0]

    @property
    def seed(self) -> int:
        """The run seed."""
        return int(self.options.get("seed", 0))

    @property
    def folder(self) -> str:
        """The name of its folder, which is its name in the ledger as well."""
        method, tuning, task = (self.options.get(name, usual) for name, usual in _USUAL.items())
        return f"{task}-{method}-{tuning}-{self.key}".replace("/", "_")


_USUAL = {"method": "mezo", "tuning": "full", "task": "data"}


def plan(sweep: Sweep, parse: Parse, *, where: Iterable[Condition] = ()) -> list[Planned]:
    """Return the trials of a grid or of random draws, in the order of the file; equal ones are one.

    Args:
        sweep: What is to be run.
        parse: Reads the options of `foretune train`.
        where: Conditions on options that a trial must meet.
    Raises:
        UsageError: an option is unknown or has a wrong value, settings contradict each other, or nothing is left.
    """
    conditions = list(where)
    found: dict[str, Planned] = {}
    for grid in sweep.grids:
        for options in _combinations(grid, sweep):
            if all(condition.holds(options) for condition in conditions):
                trial = resolve(options, grid, parse)
                found.setdefault(trial.key, trial)
    if not found:
        meeting = f" that meets {' and '.join(map(str, conditions))}" if conditions else ""
        raise UsageError(f"{sweep.name}: there is no trial{meeting}.")
    return list(found.values())


def check_places(planned: Sequence[Planned]) -> None:
    """Refuse models and folders of rows that are not on this machine, where its workers would look for them.

    Raises:
        UsageError: naming the option.
    """
    for model, folder in {(trial.options["model"], trial.options.get("data_dir")) for trial in planned}:
        check_model_path(model)
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"--data-dir {folder} is not a folder.")


def resolve(options: Mapping[str, Any], grid: Grid, parse: Parse) -> Planned:
    """Return the trial with these options, checked as `foretune train` would before it loads anything.

    Args:
        options: By name.
        grid: Where they are from.
        parse: Reads the options of `foretune train`.
    Raises:
        UsageError: naming place, option, value and what would be right.
    """
    try:
        config = parse([*arguments(options), f"--output={_UNUSED_OUTPUT}"])
        if grid.forward_passes is not None:
            config = replace(config, steps=max(1, grid.forward_passes // passes_per_step(config)))
            options = {**options, "steps": config.steps}
        config.check()
        if config.num_dev == 0 or config.task == SYNTHETIC:
            raise UsageError("there are no dev rows (--num-dev 0, or random tokens) to choose a trial on.")
        settings = settings_of(config)
    except (UsageError, IncompatibleError) as error:
        raise UsageError(f"{grid.place}: {error}") from error
    key = f"{Run(id='', name='', config=settings).config_hash}-{config.seed}"
    changed = [f"{axis} {config_part['name']}" for axis in AXES if (config_part := _named_part(config, axis))]
    words = (config.model, config.task or str(config.data), config.method["name"], *changed, config.tuning["name"])
    return Planned(
        key=key,
        options=dict(options),
        group=" | ".join(words),
        suite=grid.suite,
        chosen_seeds=grid.chosen_seeds,
        forward_passes=_passes(config),
    )


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of the command line."""
    words: list[str] = []
    for name, value in options.items():
        if isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif name == "trust_remote_code":  # a switch without a value
            words += [f"--{name}"] if value else []
        elif value is not None:
            words.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return words


def passes_per_step(config: TrainConfig) -> int:
    """Return the loss evaluations of a step of a run; a backward pass counts as two.

    Raises:
        UsageError: a setting of the method is wrong.
    """
    tuning = make_tuning(config.tuning).name
    recipe = make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=tuning)
    if isinstance(recipe, AbstractMethod) and "schedule" in config.method_options and tuning == "full":
        # how many blocks there are, the model tells
        forwards, backwards = num_forwards(recipe.parts(), trainables_of(config.model, revision=config.revision)), 0
    else:
        forwards, backwards = num_passes(recipe)
    return (forwards + BACKWARD_PASSES * backwards) * config.gradient_accumulation_steps


def _passes(config: TrainConfig) -> int | None:
    try:
        return config.steps * passes_per_step(config)
    except UsageError:  # the model's; all else has been checked
        return None


def _named_part(config: TrainConfig, axis: str) -> dict[str, Any] | None:
    part = asdict(config)[axis]
    return part if part and part.get("name") else None


def _combinations(grid: Grid, sweep: Sweep) -> Iterator[dict[str, Any]]:
    if sweep.method == "grid":
        choices = {name: _values(parameter) for name, parameter in grid.parameters.items()}
        for values in itertools.product(*choices.values()):
            yield dict(zip(choices, values, strict=True))
        return
    random = np.random.RandomState(0)
    seeds = _values(grid.parameters.get("seed", Values((0,))))
    for _ in range(sweep.run_cap or 0):
        drawn = {name: parameter.draw(random) for name, parameter in grid.parameters.items() if name != "seed"}
        for seed in seeds:
            yield {**drawn, "seed": seed}


def _values(parameter: Parameter) -> tuple[Any, ...]:
    assert isinstance(parameter, Values)  # `read_sweep` has refused ranges
    return parameter.values
