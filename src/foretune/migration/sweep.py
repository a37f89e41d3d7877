"""W&B sweep files, as ZO-LLM ships them: every combination of their values is one run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from foretune.errors import UsageError
from foretune.migration.flags import Given
from foretune.migration.result import Migration, Note
from foretune.migration.translate import find_code, migrate_flags

_ALL_ARGUMENTS = ("${args}", "${args_no_boolean_flags}", "${args_no_hyphens}")
_PROGRAM_WORDS = ("${env}", "${interpreter}", "${program}", "python", "python3")
_SELECTION_SOURCE = "ZO-LLM's sweeps, metric test_acc"
DEFAULT_CODE = "zo-llm"


@dataclass(frozen=True, slots=True)
class SweepMigration:
    """The runs of a sweep.

    Attributes:
        migrations: One for every combination that is a run of its own.
        shared: The options that all of them have alike.
        notes: Those of all runs, each once.
    """

    migrations: tuple[Migration, ...]
    shared: Mapping[str, Any]
    notes: tuple[Note, ...]


def migrate_sweep(path: Path, code: str | None = None) -> SweepMigration:
    """Translate a sweep file.

    Args:
        path: The file.
        code: Key of the research code; None for ZO-LLM.
    Raises:
        UsageError: no such file, not a sweep, a range without values, or a run that nothing in foretune is equal to.
    """
    content = _load(path)
    known = find_code(code or DEFAULT_CODE)
    program = str(content.get("program", "run.py"))
    found: dict[str, Migration] = {}
    notes = dict.fromkeys(_sweep_notes(content))
    grid = list(_combinations(path, content))
    for values in grid:
        given, stray = _flags(path, content, values)
        migration = migrate_flags(known, program, given)
        notes |= dict.fromkeys(Note("unknown", word, "it is no flag; it is left out") for word in stray)
        notes |= dict.fromkeys(migration.notes)
        comparable = repr({name: value for name, value in migration.options.items() if name != "output"})
        found.setdefault(comparable, migration)
    if len(found) < len(grid):
        text = f"{len(grid)} combinations are {len(found)} runs: the others differ in what is not read"
        notes[Note("ignored there", "parameters", text, str(path.name))] = None
    migrations = _numbered(list(found.values()))
    first = migrations[0].options
    shared = {
        name: value
        for name, value in first.items()
        if name != "output" and all(other.options.get(name) == value for other in migrations)
    }
    return SweepMigration(migrations, shared, tuple(notes))


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file.")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise UsageError(f"{path}: a W&B sweep has parameters (name: value or values), and this file has none.")
    return content


def _sweep_notes(content: Mapping[str, Any]) -> Iterator[Note]:
    method = content.get("method", "grid")
    if method != "grid":
        yield Note("no counterpart", f"method: {method}", "every combination of the values is written, as for grid")
    metric = content.get("metric") or {}
    if "test" in str(metric.get("name", "")):
        yield Note(
            "differs",
            f"metric: {metric['name']}",
            "the sweep chooses settings by what it tests on; choose by the dev figures of results here",
            _SELECTION_SOURCE,
        )
    for key in content:
        if key in ("early_terminate", "run_cap"):
            yield Note("no counterpart", f"{key}: {content[key]}", "every run is written, and runs to its end")


def _combinations(path: Path, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a value for each parameter, the last one changing fastest."""
    choices: dict[str, list[Any]] = {}
    for name, parameter in content["parameters"].items():
        if not isinstance(parameter, Mapping):
            raise UsageError(f"{path}: parameters.{name} must have value or values, found {parameter!r}.")
        if "value" in parameter:
            choices[name] = [parameter["value"]]
        elif parameter.get("values"):
            choices[name] = list(parameter["values"])
        else:
            raise UsageError(
                f"{path}: parameters.{name} has neither value nor values; write the values of a range out."
            )
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def _flags(path: Path, content: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[list[Given], list[str]]:
    """Return the flags of one run in the order of the command, and the words that are none."""
    own = [Given(str(name).replace("-", "_"), str(value), f"--{name}={value}") for name, value in values.items()]
    command = content.get("command", ["${args}"])
    if not isinstance(command, Sequence) or isinstance(command, str):
        raise UsageError(f"{path}: command must be a list, found {type(command).__name__}.")
    given: list[Given] = []
    stray: list[str] = []
    for word in map(str, command):
        if word in _ALL_ARGUMENTS:
            given += own
        elif word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            given.append(Given(name.replace("-", "_"), text if equals else None, word))
        elif word not in _PROGRAM_WORDS and word != content.get("program"):
            stray.append(word)
    return given, stray


def _numbered(migrations: list[Migration]) -> tuple[Migration, ...]:
    """Give runs that would share a folder folders of their own."""
    names = [migration.options.get("output") for migration in migrations]
    if len(set(names)) == len(names):
        return tuple(migrations)
    return tuple(
        replace(migration, options={**migration.options, "output": f"{migration.options['output']}/{number}"})
        for number, migration in enumerate(migrations, start=1)
    )
