"""Sweep files: the form of W&B's, and suites, which are sweep files that come with the package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from foretune.errors import UsageError, near_misses
from foretune.sweeps.parameters import Parameter, Range, Values, read_parameter
from foretune.sweeps.pruning import Pruning, read_early_terminate
from foretune.user_yaml import kind_of, parse_yaml, read_text

SearchMethod = Literal["grid", "random", "bayes"]
Goal = Literal["minimize", "maximize"]

_SUITES = "foretune.suites"
_WANDB_KEYS = ("method", "metric", "parameters", "early_terminate", "run_cap", "program", "command")
_WANDB_LABELS = ("name", "description", "project", "entity", "$schema")
_OWN_KEYS = ("suites", "grids", "seeds", "chosen_seeds", "forward_passes", "source")
_GRID_KEYS = ("forward_passes", "chosen_seeds")
_NOT_SWEPT = {
    "output": "every trial has a folder of its own",
    "resume": "an interrupted trial is always gone on with",
    "ledger": "a sweep has one ledger, named by --ledger",
    "config": "write its options as parameters",
    "push_to_hub": "'foretune train --resume --push-to-hub' pushes the run that is chosen",
}
_COMMAND_WORDS = ("${env}", "${interpreter}", "${program}", "python", "python3", "-m", "foretune", "train")
_ALL_ARGUMENTS = ("${args}", "${args_no_boolean_flags}", "${args_no_hyphens}")
DEFAULT_METRIC = "dev.loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Parameters that are combined with each other.

    Attributes:
        place: Where it is written, for messages.
        parameters: By the name of the option of `foretune train`; the last one changes fastest.
        suite: The suite it is from.
        forward_passes: Budget of a trial, from which its steps follow; None where steps are given.
        chosen_seeds: Further seeds for the settings that are chosen on dev rows.
    """

    place: str
    parameters: Mapping[str, Parameter]
    suite: str | None = None
    forward_passes: int | None = None
    chosen_seeds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is to be run.

    Attributes:
        name: Of the study, if nothing else is said.
        method: How parameters are combined: every combination, drawn, or proposed from what came out so far.
        metric: The dev figure that trials are compared by, as in the ledger (`dev.loss`).
        goal: Whether less or more of it is better.
        grids: What is combined.
        run_cap: Number of trials that are drawn or proposed, before seeds.
        pruning: Which trials are ended early; None: only those that diverge.
    """

    name: str
    grids: tuple[Grid, ...]
    method: SearchMethod = "grid"
    metric: str = DEFAULT_METRIC
    goal: Goal = "minimize"
    run_cap: int | None = None
    pruning: Pruning | None = None


def suite_names() -> list[str]:
    """Return the suites there are."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _suite_folder().iterdir() if entry.name.endswith("yaml")
    )


def describe_suite(name: str) -> str:
    """Return what a suite says of itself."""
    return " ".join(yaml.safe_load((_suite_folder() / f"{name}.yaml").read_text())["description"].split())


def load_sweep(word: str) -> Sweep:
    """Read a file, or the suite of that name.

    Raises:
        UsageError: there is neither, or it cannot be read; file and key are named.
    """
    path = Path(word)
    if path.is_file():
        return read_sweep(read_text(path, word), place=word, name=path.stem)
    if path.suffix in (".yaml", ".yml") or path.parent != Path("."):
        raise UsageError(f"{word}: there is no such file.")
    if word not in suite_names():
        raise UsageError(f"{word} is no file, and no suite.{near_misses(word, suite_names())}")
    sweep = read_sweep((_suite_folder() / f"{word}.yaml").read_text(), place=f"suite {word}", name=word)
    return replace(sweep, grids=tuple(replace(grid, suite=word) for grid in sweep.grids))


def join_sweeps(sweeps: Sequence[Sweep]) -> Sweep:
    """Return one sweep with the grids of several.

    Raises:
        UsageError: they are not searched or compared in the same way.
    """
    first = sweeps[0]
    for other in sweeps[1:]:
        for field in ("method", "metric", "goal", "pruning"):
            if getattr(other, field) != getattr(first, field):
                raise UsageError(
                    f"{first.name} and {other.name} differ in {field} ({getattr(first, field)}, "
                    f"{getattr(other, field)}): run them as two sweeps."
                )
    if len(sweeps) > 1 and first.method != "grid":
        raise UsageError(f"method {first.method}: one file at a time can be searched in this way.")
    return replace(
        first, name="-".join(sweep.name for sweep in sweeps), grids=tuple(grid for s in sweeps for grid in s.grids)
    )


def override(sweep: Sweep, parameters: Mapping[str, Parameter]) -> Sweep:
    """Return the sweep with parameters that hold in all its grids, instead of their own; steps replace a budget."""
    grids = []
    for grid in sweep.grids:
        budget = None if "steps" in parameters else grid.forward_passes
        grids.append(replace(grid, parameters={**grid.parameters, **parameters}, forward_passes=budget))
    return replace(sweep, grids=tuple(grids))


def read_sweep(text: str, *, place: str, name: str) -> Sweep:
    """Read the content of a file.

    Args:
        text: YAML.
        place: What messages call it.
        name: Of the sweep, where the file gives none.
    Raises:
        UsageError: naming the place, the key, what stands there and what would be right.
    """
    content = parse_yaml(text, place)
    if not isinstance(content, dict):
        raise UsageError(f"{place}: expected method, metric and parameters, found {kind_of(content)}.")
    for key in content:
        if key not in (*_WANDB_KEYS, *_WANDB_LABELS, *_OWN_KEYS):
            raise UsageError(f"{place}: unknown key {key!r}.{near_misses(str(key), (*_WANDB_KEYS, *_OWN_KEYS))}")
    method = content.get("method", "grid")
    if method not in get_args(SearchMethod):
        raise UsageError(f"{place}: method {method!r} must be one of {', '.join(get_args(SearchMethod))}.")
    metric, goal = _read_metric(place, content.get("metric"))
    grids = _read_grids(place, content)
    run_cap = _read_run_cap(place, content, method)
    if method != "grid" and len(grids) > 1:
        raise UsageError(f"{place}: method {method} searches one set of parameters; leave out suites and grids.")
    if method == "grid":
        for grid in grids:
            _refuse_ranges(grid)
    if method == "bayes":
        _refuse_what_is_not_proposed(grids[0])
    return Sweep(
        name=str(content.get("name", name)),
        method=method,
        metric=metric,
        goal=goal,
        grids=grids,
        run_cap=run_cap,
        pruning=read_early_terminate(place, content.get("early_terminate")),
    )


def _suite_folder() -> Any:
    return resources.files(_SUITES)


def _read_metric(place: str, given: Any) -> tuple[str, Goal]:
    """Read what trials are compared by: a figure of dev rows."""
    if given is None:
        return DEFAULT_METRIC, "minimize"
    if not isinstance(given, Mapping) or "name" not in given:
        raise UsageError(f"{place}: metric must be {{name: {DEFAULT_METRIC}, goal: minimize}}, got {given!r}.")
    for key in given:
        if key not in ("name", "goal"):
            raise UsageError(f"{place}: metric has no {key!r}.{near_misses(str(key), ('name', 'goal'))}")
    word = str(given["name"])
    name = f"dev.{word.removeprefix('eval_')}" if word.startswith("eval_") else word
    if name.startswith(("final.", "test")):
        raise UsageError(
            f"{place}: metric {word} is of test rows; trials are chosen on dev rows: name dev.{_last(word)}."
        )
    from foretune.evaluation import METRICS

    known = ("dev.loss", *(f"dev.{metric}" for metric in METRICS))
    if name not in known:
        raise UsageError(f"{place}: metric {word!r} is not known.{near_misses(name, known)}")
    usual: Goal = "minimize" if name == "dev.loss" else "maximize"
    goal = given.get("goal", usual)
    if goal not in get_args(Goal):
        raise UsageError(f"{place}: metric.goal {goal!r} must be minimize or maximize.")
    if goal != usual:
        raise UsageError(f"{place}: metric {word} with goal {goal} would choose the worst trial: {usual} it.")
    return name, goal


def _last(word: str) -> str:
    return word.rpartition(".")[2].removeprefix("test_")


def _read_grids(place: str, content: Mapping[str, Any]) -> tuple[Grid, ...]:
    shared = {
        **_fixed_by_command(place, content),
        **_read_parameters(f"{place}: parameters", content.get("parameters")),
    }
    if (seeds := _seeds(place, "seeds", content)) is not None:
        if "seed" in shared:
            raise UsageError(f"{place}: seeds and parameters.seed contradict each other; keep one.")
        shared["seed"] = Values(seeds)
    budget = _positive(place, "forward_passes", content)
    chosen = _seeds(place, "chosen_seeds", content) or ()
    own = content.get("grids")
    if own is not None and not (isinstance(own, list) and own and all(isinstance(entry, Mapping) for entry in own)):
        raise UsageError(f"{place}: grids must be a list of parameters (name: value or values).")
    named = content.get("suites")
    if named is not None:
        if own is not None:
            raise UsageError(f"{place}: suites and grids cannot stand in one file.")
        return _grids_of_suites(place, named, shared, budget, chosen)
    if not shared and not own:
        raise UsageError(f"{place}: there are no parameters.")
    found = []
    for number, entry in enumerate([{}] if own is None else own, start=1):
        at = f"{place}: parameters" if own is None else f"{place}: grids[{number}]"
        parameters = _read_parameters(at, {key: value for key, value in entry.items() if key not in _GRID_KEYS})
        grid = Grid(
            place=at,
            parameters={**shared, **parameters},
            forward_passes=_positive(at, "forward_passes", entry) or budget,
            chosen_seeds=chosen if (here := _seeds(at, "chosen_seeds", entry)) is None else here,
        )
        _check_grid(grid)
        found.append(grid)
    return tuple(found)


def _grids_of_suites(
    place: str, named: Any, shared: Mapping[str, Parameter], budget: int | None, chosen: tuple[int, ...]
) -> tuple[Grid, ...]:
    if not isinstance(named, list) or not named:
        raise UsageError(f"{place}: suites must be a list of names: {', '.join(suite_names())}.")
    found: list[Grid] = []
    for name in named:
        if name not in suite_names():
            raise UsageError(f"{place}: suites: there is no {name!r}.{near_misses(str(name), suite_names())}")
        for grid in override(load_sweep(name), shared).grids:
            grid = replace(grid, forward_passes=budget or grid.forward_passes, chosen_seeds=chosen or grid.chosen_seeds)
            _check_grid(grid)
            found.append(grid)
    return tuple(found)


def _check_grid(grid: Grid) -> None:
    seeds = grid.parameters.get("seed", Values((0,)))
    if isinstance(seeds, Values) and (both := set(seeds.values) & set(grid.chosen_seeds)):
        raise UsageError(f"{grid.place}: chosen_seeds {sorted(both)} are seeds of every trial already.")
    if grid.forward_passes is not None and "steps" in grid.parameters:
        raise UsageError(f"{grid.place}: forward_passes and steps contradict each other; keep one.")


def _read_parameters(place: str, given: Any) -> dict[str, Parameter]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UsageError(f"{place} must be names with value or values, got {type(given).__name__}.")
    found: dict[str, Parameter] = {}
    for key, value in given.items():
        name = str(key).removeprefix("--").replace("-", "_")
        if reason := _NOT_SWEPT.get(name):
            raise UsageError(f"{place}.{key} cannot be set in a sweep: {reason}.")
        if name in found:
            raise UsageError(f"{place}.{key} is there twice.")
        found[name] = read_parameter(name, value, place)
    return found


def _fixed_by_command(place: str, content: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the options that W&B's `command` gives to every run; its `--output` is for W&B alone."""
    program = content.get("program")
    command = content.get("command", [])
    if not isinstance(command, list):
        raise UsageError(f"{place}: command must be a list of words, got {command!r}.")
    if command and "train" not in command:
        raise UsageError(f"{place}: command must call 'foretune train', got {' '.join(map(str, command))!r}.")
    found: dict[str, Parameter] = {}
    words: Iterable[str] = iter([str(word) for word in command])
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            value = value if equals else next(iter(words), "")
            if name != "output":
                found |= _read_parameters(f"{place}: command", {name: value})
        elif word not in (*_COMMAND_WORDS, *_ALL_ARGUMENTS, program):
            raise UsageError(f"{place}: command: {word!r} is no option of 'foretune train'.")
    return found


def _read_run_cap(place: str, content: Mapping[str, Any], method: str) -> int | None:
    cap = _positive(place, "run_cap", content)
    if method == "grid" and cap is not None:
        raise UsageError(f"{place}: run_cap {cap} has no effect with method grid, which runs every combination.")
    if method != "grid" and cap is None:
        raise UsageError(f"{place}: method {method} needs run_cap, the number of trials.")
    return cap


def _positive(place: str, key: str, content: Mapping[str, Any]) -> int | None:
    value = content.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UsageError(f"{place}: {key} must be a whole number above 0, got {value!r}.")
    return value


def _seeds(place: str, key: str, content: Mapping[str, Any]) -> tuple[int, ...] | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(seed, int) and seed >= 0 for seed in value):
        raise UsageError(f"{place}: {key} must be a list of whole numbers, for example [0, 1, 2]; got {value!r}.")
    if len(set(value)) < len(value):
        raise UsageError(f"{place}: {key} has a seed twice: {value}.")
    return tuple(value)


def _refuse_ranges(grid: Grid) -> None:
    for name, parameter in grid.parameters.items():
        if not isinstance(parameter, Values):
            raise UsageError(f"{grid.place}.{name} is a range, which method grid cannot run through: give values.")


def _refuse_what_is_not_proposed(grid: Grid) -> None:
    for name, parameter in grid.parameters.items():
        if isinstance(parameter, Range):
            if parameter.log and parameter.step is not None:
                raise UsageError(
                    f"{grid.place}.{name}: method bayes draws no steps of a logarithmic range; leave out q."
                )
        elif len(parameter.values) > 1:
            if name == "seed":
                raise UsageError(f"{grid.place}: method bayes runs a setting with one seed; use chosen_seeds for more.")
            for value in parameter.values:
                if not isinstance(value, str | int | float | bool):
                    raise UsageError(
                        f"{grid.place}.{name}: method bayes chooses among words and numbers, not {value!r}."
                    )
