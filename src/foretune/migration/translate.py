"""From a run of a research code to the equal run of foretune."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from foretune.errors import UsageError, near_misses
from foretune.migration.causal import AbstractCausalCode, AbstractCode
from foretune.migration.flags import Given, given_flags
from foretune.migration.hizoo import HiZOO
from foretune.migration.lozo import LOZO
from foretune.migration.masked import LOZOMasked, MeZOMasked
from foretune.migration.mezo import MeZO
from foretune.migration.reading import Reading
from foretune.migration.result import Migration, Note
from foretune.migration.scripts import KEPT, NAMES, find_script
from foretune.migration.shell import Run, read_script, run_of_words
from foretune.migration.subzero import SubZero
from foretune.migration.zo_llm import ZOLLM
from foretune.migration.zobcd import ZOBCD

CODES: Mapping[str, AbstractCode] = MappingProxyType(
    {code.key: code() for code in (MeZO, LOZO, HiZOO, ZOLLM, SubZero, ZOBCD, MeZOMasked, LOZOMasked)}
)
"""The research codes; of several that know all flags of a command the first one is meant."""

_TRAIN_ONLY = ("output", "log_steps", "seed", "gradient_accumulation_steps")
"""Options of flags that are translated alone, and that an evaluation does not have."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What a text holds.

    Attributes:
        migrations: Its runs, in order.
        notes: Lines that are no runs.
    """

    migrations: tuple[Migration, ...]
    notes: tuple[Note, ...]


def migrate(text: str, code: str | None = None) -> Translation:
    """Translate the commands in a text, or in the content of a shell script.

    Args:
        text: One command or many; lines may end in a backslash.
        code: Key of the research code; None finds it by the flags.
    Raises:
        UsageError: no run in it, or one that nothing in foretune is equal to; the message names what is in the way.
    """
    script = read_script(text)
    if not script.runs:
        return Translation((_migrate_run(run_of_words(text.split()), code),), ())
    several = len(script.runs) > 1
    migrations = []
    for run in script.runs:
        try:
            migrations.append(_migrate_run(run, code))
        except UsageError as error:
            raise UsageError(f"Line {run.line}: {error}" if several else str(error)) from None
    notes = tuple(Note("left out", f"line {line}", text) for line, text in script.others)
    return Translation(tuple(migrations), notes)


def migrate_words(words: Sequence[str], code: str | None = None) -> Migration:
    """Translate one command whose words a shell has split already; as `migrate`."""
    return _migrate_run(run_of_words(words), code)


def migrate_flags(code: AbstractCode, program: str, given: Sequence[Given], notes: Sequence[Note] = ()) -> Migration:
    """Translate the flags of one run of a known code."""
    reading = Reading(code.title, code.flags, given)
    command = code.translate(reading)
    reading.finish()
    options = reading.sorted_options()
    if command == "train":
        options.setdefault("output", _output(options))
    else:
        for name in _TRAIN_ONLY:
            if name in options:
                reading.note(
                    "no counterpart", name, f"foretune evaluate has no such option; {options.pop(name)} is left out"
                )
    return Migration(f"{code.title}, {program}", command, options, (*notes, *reading.notes))


def find_code(key: str) -> AbstractCode:
    """Return a research code.

    Raises:
        UsageError: there is none of this name.
    """
    if key not in CODES:
        raise UsageError(f"Unknown research code {key!r}.{near_misses(key, CODES)}")
    return CODES[key]


def _migrate_run(run: Run, key: str | None) -> Migration:
    if key is not None:
        find_code(key)
    given, stray = given_flags(run.arguments)
    notes = [Note("unknown", word, "it belongs to no flag; it is left out") for word in stray]
    if run.launcher:
        words = " ".join(run.launcher)
        notes.append(Note("no counterpart", words, "foretune runs on one device and is started by itself"))
    if run.program.endswith(".sh"):
        script = find_script(run.program, run.variables, given, key)
        passed = script.flags(run.variables)
        notes += _variable_notes(run, script.unknown(run.variables))
        return migrate_flags(CODES[script.code], run.program, _without_repeated(passed, given), notes)
    _check_trainer(given)
    notes += _variable_notes(run, [name for name in run.variables if not name.startswith(KEPT)])
    return migrate_flags(CODES[key] if key else _detect(given), run.program, given, notes)


def _without_repeated(passed: Sequence[Given], given: Sequence[Given]) -> list[Given]:
    """Put flags behind a script's own, of which they replace those of the same name."""
    names = {flag.name for flag in given}
    return [*(flag for flag in passed if flag.name not in names), *given]


def _variable_notes(run: Run, unknown: Sequence[str]) -> list[Note]:
    notes = [Note("unknown", f"{name}={run.variables[name]}", f"{run.program} does not read it") for name in unknown]
    for name, value in run.variables.items():
        if name.startswith(KEPT):
            notes.append(Note("left out", f"{name}={value}", "set it in front of foretune too"))
        elif name in NAMES and run.program.endswith(".sh"):
            notes.append(Note("no counterpart", f"{name}={value}", "the name of a run is that of its folder"))
    return notes


def _detect(given: Sequence[Given]) -> AbstractCode:
    """Return the code that knows most of the flags, and the trainer."""
    names = {flag.name for flag in given}
    trainer = next((flag.text for flag in given if flag.name == "trainer"), None)

    def num_unknown(code: AbstractCode) -> int:
        knows = not isinstance(code, AbstractCausalCode) or trainer in (None, "none", *code.trainers)
        return len(names - set(code.flags)) + (not knows)

    return min(CODES.values(), key=num_unknown)


def _check_trainer(given: Sequence[Given]) -> None:
    """Refuse a trainer that no code has; one that only others have is refused by the code that is found."""
    known = {
        "none",
        *(name for code in CODES.values() if isinstance(code, AbstractCausalCode) for name in code.trainers),
    }
    for flag in given:
        if flag.name == "trainer" and flag.text not in (*known, "standard"):
            raise UsageError(f"{flag.spelled}: no research code has this trainer.{near_misses(str(flag.text), known)}")


def _output(options: Mapping[str, object]) -> str:
    """Name a folder after what distinguishes runs."""
    model = str(options["model"]).rstrip("/").rpartition("/")[2]
    parts = [model, options["task"], options["method.name"], options["tuning.name"], f"lr{options['lr']:g}"]
    if "zo_eps" in options:
        parts.append(f"eps{options['zo_eps']:g}")
    return "runs/" + re.sub(r"[^\w.-]", "-", "-".join(map(str, parts)))
