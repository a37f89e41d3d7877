"""Runs of other programs, put into the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from foretune.errors import UsageError, near_misses
from foretune.ledger import Ledger, Point, Run, find_existing_ledger, find_ledger
from foretune.ledger.readers import Log, read_logs
from foretune.methods import RECIPES
from foretune.runs.config import ImportConfig

# what the research codes and transformers call these; the first that a log has counts
_NAMES = {
    "task": ("task", "task_name"),
    "method": ("method", "trainer", "optimizer"),
    "model": ("model", "model_name", "model_name_or_path"),
    "seed": ("seed",),
    "train_set_seed": ("train_set_seed",),
    "lr": ("lr", "learning_rate"),
    "zo_eps": ("zo_eps",),
}
_METHODS = {"zo": "mezo"}  # what MeZO's own script calls it; other spellings are aliases of methods
_TUNINGS = {"lora": "lora", "apply_lora": "lora", "prefix_tuning": "prefix", "prompt_tuning": "prompt"}
_PLACES = ("output_dir", "logging_dir", "run_name", "log_file", "tag")


@dataclass(frozen=True, slots=True)
class Imported:
    """What was put into which ledger: each run, the number of its steps with figures, and whether it is new."""

    ledger: Path
    runs: list[tuple[Run, int, bool]]


def import_runs(config: ImportConfig) -> Imported:
    """Read logs and put them into the ledger; one that is there already is brought up to date.

    What an option says counts for all of them, and more than what a log says. Metrics are those that the log has of the
    whole run, then `min.NAME`, `max.NAME` and `last.NAME` of each figure, then those that `metric` names.

    Raises:
        UsageError: a path, an option or a log is wrong; nothing has been written then.
    """
    config.check()
    settings = _pairs(config.set, "--set", "lr=1e-6")
    names = _pairs(config.metric, "--metric", "final.accuracy=max.eval_accuracy")
    logs = {log.id: log for path in config.paths or () for log in read_logs(Path(path), config.format)}
    chosen = [replace(log, points=_choose(log.points, config.scalars)) for log in logs.values()]
    _check_scalars(chosen, config.scalars)
    runs = [_to_run(log, config, settings, names) for log in chosen]
    path = _ledger(config.ledger)
    imported = []
    with Ledger.open(path, create=True) as ledger:
        for run, log in zip(runs, chosen, strict=True):
            is_new = ledger.find(run.id) is None
            if is_new:
                ledger.add(run)
            else:
                ledger.update(run.id, **{name: value for name, value in asdict(run).items() if name != "id"})
            ledger.add_points(run.id, log.points)
            imported.append((run, len(log.points), is_new))
    return Imported(path, imported)


def _ledger(option: str | None) -> Path:
    """Return the ledger that is named or found, else a new one here."""
    try:
        return find_existing_ledger(option)
    except UsageError:
        path = find_ledger(option, Path())
    if path is None:
        raise UsageError("--ledger none: imported runs need a ledger.")
    return path


def _to_run(log: Log, config: ImportConfig, settings: Mapping[str, Any], names: Mapping[str, Any]) -> Run:
    found = {name: _first(log.config, spellings) for name, spellings in _NAMES.items()}
    said = {name: value for name in ("task", "method", "model") if (value := getattr(config, name) or found[name])}
    method = _method_name(said.get("method"))
    tuning = config.tuning or _tuning(log.config)
    seeds = {
        name: found[name] if getattr(config, name) is None else getattr(config, name)
        for name in ("seed", "train_set_seed")
    }
    own = {**{name: found[name] for name in ("lr", "zo_eps") if found[name] is not None}, **settings}
    known = {spelling for spellings in _NAMES.values() for spelling in spellings} | {*_TUNINGS, *_PLACES}
    rest = {name: value for name, value in log.config.items() if name not in known}
    metrics = _metrics(log)
    for name, figure in names.items():
        if str(figure) not in metrics:
            raise UsageError(
                f"--metric {name}={figure}: '{log.output}' ({log.name}) has no such figure."
                f"{near_misses(str(figure), metrics)}"
            )
        metrics[name] = metrics[str(figure)]
    return Run(
        id=log.id,
        name=log.name,
        status=log.status,
        source=log.source,
        method=method,
        task=str(said["task"]).lower() if "task" in said else None,
        tuning=tuning,
        model=said.get("model"),
        config={
            **({"method": {"name": method, **own}} if method or own else {}),
            **{name: value for name, value in seeds.items() if value is not None},
            **({"imported": rest} if rest else {}),
        },
        started=log.started,
        ended=log.ended,
        steps=log.steps or 0,
        total_steps=log.total_steps if log.total_steps is not None else log.config.get("max_steps"),
        metrics=metrics,
        seconds=log.seconds,
        study=config.study,
        suite=config.suite,
        output=log.output,
        **seeds,
    )


def _metrics(log: Log) -> dict[str, float]:
    """Return the figures of the whole run; those by step summarised, nan left out of least and most."""
    metrics = dict(log.metrics)
    for name in dict.fromkeys(name for point in log.points for name in point.figures if name != "seconds"):
        values = [point.figures[name] for point in log.points if name in point.figures]
        finite = [value for value in values if value == value] or values
        metrics |= {f"min.{name}": min(finite), f"max.{name}": max(finite), f"last.{name}": values[-1]}
    return metrics


def _choose(points: list[Point], scalars: list[str] | None) -> list[Point]:
    if scalars is None:
        return points
    kept = {*scalars, "seconds"}
    chosen = [Point(p.step, {n: v for n, v in p.figures.items() if n in kept}) for p in points]
    return [point for point in chosen if point.figures.keys() - {"seconds"}]


def _check_scalars(logs: list[Log], scalars: list[str] | None) -> None:
    known = {name for log in logs for point in log.points for name in point.figures}
    for name in scalars or ():
        if name not in known:
            raise UsageError(f"--scalars {name}: no log has it, or only where others were left out.")


def _method_name(name: Any) -> str | None:
    """Return the method's registered name for a spelling of published code; another program's method keeps its own."""
    if name is None:
        return None
    try:
        recipe = RECIPES.get(_METHODS.get(name, str(name)))
    except UsageError:
        return str(name)
    return next(known for known in RECIPES if RECIPES.get(known) is recipe)


def _tuning(config: Mapping[str, Any]) -> str | None:
    """Return what was tuned: full where a log has the switches of the research codes, and none is on."""
    switches = {scheme: config[name] for name, scheme in _TUNINGS.items() if name in config}
    return next((scheme for scheme, is_on in switches.items() if is_on), "full" if switches else None)


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _pairs(words: list[str] | None, option: str, example: str) -> dict[str, Any]:
    """Read ``NAME=VALUE`` words."""
    found = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UsageError(f"{option} {word!r}: give NAME=VALUE, for example {example}.")
        found[name] = _number(value)
    return found


def _number(text: str) -> Any:
    """Read a setting as YAML does, and 1e-6, which YAML takes for text, as a number."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text
