"""`foretune migrate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foretune.errors import UsageError, near_misses

if TYPE_CHECKING:
    from foretune.migration import Migration, Note

_USAGE = """usage: foretune migrate [--code CODE] "COMMAND"      a command of a research code
       foretune migrate [--code CODE] FILE           a shell script with such commands, or a W&B sweep (.yml, .yaml)
       foretune migrate [--code CODE] -- COMMAND     a command that is not quoted
       foretune migrate [--code CODE] -              commands from standard input

Prints the equal foretune command and YAML, and names every flag that has no counterpart or that the original ignored.

  --code CODE  The research code, where the flags do not tell:"""


def run(arguments: Sequence[str]) -> None:
    """Translate, check that the result is a command, print it."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        from foretune.migration import CODES

        print(f"{_USAGE} {', '.join(CODES)}.")
        if not words:
            raise UsageError("foretune migrate needs a command or a file.")
        return
    code, words = _take_code(words)
    if words and words[0] == "--":
        words = words[1:]
    if not words:
        raise UsageError("foretune migrate needs a command or a file.")

    if len(words) == 1 and words[0].endswith((".yml", ".yaml")):
        _migrate_sweep(Path(words[0]), code)
    elif len(words) == 1:
        _migrate_text(_text_of(words[0]), code)
    else:
        from foretune.migration import migrate_words

        _print_run(migrate_words(words, code))


def check(migration: Migration) -> None:
    """Refuse a command that foretune would refuse, before anything is loaded.

    Raises:
        UsageError: what cannot work; or IncompatibleError.
    """
    from foretune.cli.options import Options
    from foretune.cli.train import parse
    from foretune.methods import make_recipe
    from foretune.runs.config import EvaluateConfig

    if migration.command == "evaluate":
        Options("evaluate", "", EvaluateConfig).parse(migration.arguments).check()
        return
    config = parse(migration.arguments)
    config.check()
    scheme = config.tuning["name"]
    make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=scheme)


def _take_code(words: list[str]) -> tuple[str | None, list[str]]:
    if words[0].startswith("--code="):
        return words[0].partition("=")[2], words[1:]
    if words[0] == "--code":
        if len(words) == 1:
            raise UsageError("--code needs a name, for example mezo.")
        return words[1], words[2:]
    return None, words


def _text_of(word: str) -> str:
    """Return what stands in a file, comes from standard input, or is the command itself."""
    if word == "-":
        return sys.stdin.read()
    path = Path(word)
    if "\n" not in word and len(word) < 4096 and path.is_file():
        try:
            return path.read_text()
        except UnicodeDecodeError:
            raise UsageError(f"{word} is not a text file.") from None
    if not any(character.isspace() for character in word) and not word.startswith("--"):
        raise UsageError(f"{word}: there is no such file, and it is no command.{_hint(path)}")
    return word


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return near_misses(path.name, [file.name for file in path.parent.iterdir()]).partition(" Available:")[0]


def _migrate_text(text: str, code: str | None) -> None:
    from foretune.migration import migrate

    translation = migrate(text, code)
    for migration in translation.migrations:
        check(migration)
    for index, migration in enumerate(translation.migrations):
        print("\n" * (index > 0), end="")
        _print_run(migration, checked=True)
    _print_notes(translation.notes)


def _print_run(migration: Migration, *, checked: bool = False) -> None:
    if not checked:
        check(migration)
    print(f"# {migration.origin}")
    print(migration.shell)
    if migration.command == "train":
        print(f"\n# The same as a file for --config\n{migration.yaml}", end="")
    _print_notes(migration.notes)


def _migrate_sweep(path: Path, code: str | None) -> None:
    from foretune.migration import as_yaml, migrate_sweep

    sweep = migrate_sweep(path, code)
    for migration in sweep.migrations:
        check(migration)
    print(f"# {sweep.migrations[0].origin}, sweep {path.name}: {len(sweep.migrations)} runs")
    for migration in sweep.migrations:
        print(migration.shell.replace(" \\\n    ", " "))
    print(f"\n# What they share, as a file for --config\n{as_yaml(sweep.shared)}", end="")
    _print_notes(sweep.notes)


def _print_notes(notes: Iterable[Note]) -> None:
    """Print remarks under the heading of their kind."""
    from foretune.migration import NOTE_KINDS

    listed = list(notes)
    for kind, heading in NOTE_KINDS.items():
        of_kind = [note for note in listed if note.kind == kind]
        if of_kind:
            print(f"\n# {heading}:")
            for note in of_kind:
                print(f"#   {note}")
