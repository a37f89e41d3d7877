r"""From what a user pastes to the runs in it: one command or many, over several lines, out of a shell script.

Assignments are followed (``LR=1e-6``, ``$LR``, ``${LR}``, ``${LR:-1e-6}``); nothing is executed. What a script decides
while it runs (``if``, ``for``, ``$(...)``, ``$1``) is unknown here, and a run that depends on it is refused by name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from foretune.errors import UsageError

_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)=(.*)$", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^{}$]*))?\}|(\w+|[@*#?]))")
_OPENING = {"if", "for", "while", "until", "case"}
_CLOSING = {"fi", "done", "esac"}
_INNER = {"then", "else", "elif", "do"}
_WRAPPERS = {"nohup", "time", "env", "sudo", "exec"}
_OPERATORS = frozenset("();<>|&")


@dataclass(frozen=True, slots=True)
class Run:
    """One call of a program of a research code.

    Attributes:
        program: File name of the script: ``run.py``, ``mezo.sh``.
        arguments: Its words.
        variables: Assignments in front of it and, in a script, before it.
        launcher: Words between the interpreter and the program (``-m torch.distributed.launch --nproc_per_node=2``).
        line: Where it begins; 0 for words that a shell has split already.
    """

    program: str
    arguments: list[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """The runs of a text, and the lines that are none."""

    runs: tuple[Run, ...]
    others: tuple[tuple[int, str], ...]


def run_of_words(words: Sequence[str]) -> Run:
    """Return the run in words that a shell has split; flags alone are taken for those of ``run.py``.

    Raises:
        UsageError: there is no Python or shell script in them.
    """
    assignments, rest = _split_assignments(words)
    run = _find_run(rest, assignments, line=0)
    if run is None:
        raise UsageError(
            f"{' '.join(words)[:80]!r} runs no script of a research code: give a command such as "
            '"python run.py --task_name=SST2 ..." or "MODEL=... TASK=SST2 bash mezo.sh".'
        )
    return run


def read_script(text: str) -> Script:
    """Return the runs in a text.

    Raises:
        UsageError: quotes that do not close, or a run that depends on what a script decides while it runs.
    """
    known: dict[str, str] = {}
    exported: set[str] = set()
    undecided: dict[str, int] = {}
    runs: list[Run] = []
    others: list[tuple[int, str]] = []
    depth = 0
    for line, words in _commands(text):
        while words and words[0] in _INNER:
            words = words[1:]
        if not words:
            continue
        if words[0] in _OPENING:
            depth += 1
            if words[0] == "for" and len(words) > 1:
                undecided[words[1]] = line
            continue
        if words[0] in _CLOSING:
            depth -= 1
            continue
        exports = words[0] == "export"
        assignments, rest = _split_assignments(words[1:] if exports else words)
        expand = partial(_expanded, variables=known, undecided=undecided, line=line)
        if exports or not rest:
            exported.update([*assignments, *rest] if exports else [])
            for name, value in assignments.items():
                _assign(name, value, known, undecided, line, expand if depth == 0 else None)
            continue
        found = _find_run(rest, assignments, line)
        if found is None:
            others.append((line, " ".join(words)))
            continue
        arguments = [filled for word in found.arguments for filled in _words(word, expand)]
        own = {name: expand(value) for name, value in found.variables.items()}
        inherited = {name: value for name, value in known.items() if name in exported}
        runs.append(Run(found.program, arguments, {**inherited, **own}, found.launcher, line))
    return Script(tuple(runs), tuple(others))


def _commands(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the simple commands of a text, as words, with the line each begins on."""
    pending, first = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first or number
        pending += line
        if re.search(r"(?<!\\)(\\\\)*\\$", line):  # a backslash at the end goes on with the next line
            pending = pending[:-1] + " "
            continue
        try:
            words = _lexed(pending)
        except ValueError:  # an open quotation goes on too
            pending += "\n"
            continue
        for command in _at_operators(words):
            yield first, command
        pending, first = "", 0
    if pending.strip():
        raise UsageError(f"Line {first}: a quotation is not closed.")


def _lexed(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _at_operators(words: Sequence[str]) -> Iterator[list[str]]:
    """Split at ``;``, ``&&``, ``|`` and ``&``, and drop redirections with their files."""
    command: list[str] = []
    skip = False
    for word in words:
        if word and set(word) <= _OPERATORS:
            if set(word) <= set("<>&") and set(word) & set("<>"):
                if command and command[-1].isdigit():  # the 2 of 2>file
                    command.pop()
                skip = True
                continue
            if "(" in word and command and command[-1].endswith("$"):
                raise UsageError(f"'{command[-1]}(...)' is a command inside a command, which is not run here.")
            if command:
                yield command
            command = []
        elif skip:
            skip = False
        else:
            command.append(word)
    if command:
        yield command


def _split_assignments(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    assignments: dict[str, str] = {}
    rest = list(words)
    while rest:
        if found := _ASSIGNMENT.match(rest[0]):
            assignments[found[1]] = found[2]
        elif rest[0] not in _WRAPPERS:
            break
        rest.pop(0)
    return assignments, rest


def _find_run(words: list[str], variables: Mapping[str, str], line: int) -> Run | None:
    if words and words[0].startswith("--"):
        return Run("run.py", words, variables, (), line)
    for index, word in enumerate(words):
        if word.endswith((".py", ".sh")):
            launcher = [other for other in words[:index] if other != "-u"]
            if launcher and re.fullmatch(r".*python[\d.]*|.*bash|.*sh|source|\.", launcher[0]):
                launcher.pop(0)
            elif launcher and launcher[0] not in ("accelerate", "torchrun", "deepspeed"):
                return None  # cp run.sh ..., chmod +x run.sh
            return Run(word.rpartition("/")[2], words[index + 1 :], variables, tuple(launcher), line)
    return None


def _words(word: str, expand: Callable[[str], str]) -> list[str]:
    """Expand a word; one that is nothing but a variable may hold several words, or none."""
    if word in ("$@", "$*"):
        return []
    return expand(word).split() if _VARIABLE.fullmatch(word) else [expand(word)]


def _expanded(word: str, variables: Mapping[str, str], undecided: Mapping[str, int], line: int) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        if name in undecided:
            raise UsageError(
                f"Line {line}: ${name} depends on line {undecided[name]}, which is not run here. "
                "Paste the command with its value."
            )
        if (found := variables.get(name, match[2])) is None:
            raise UsageError(
                f"Line {line}: ${name} has no value here. Set it in front, {name}=..., or paste its value."
            )
        return found

    filled = _VARIABLE.sub(value, word)
    if "$" in filled or "`" in filled:
        raise UsageError(f"Line {line}: {word!r} is computed by the shell, which is not done here. Paste its value.")
    return filled


def _assign(
    name: str,
    value: str,
    known: dict[str, str],
    undecided: dict[str, int],
    line: int,
    expand: Callable[[str], str] | None,
) -> None:
    """Follow an assignment; a value that cannot be known matters only where it is used."""
    try:
        if expand is None:  # it is made under a condition
            raise UsageError(name)
        known[name] = expand(value)
    except UsageError:
        undecided[name] = line
    else:
        undecided.pop(name, None)
