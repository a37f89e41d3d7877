"""What becomes of a command: the equal one of foretune, and what has to be said about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

NoteKind = Literal["no counterpart", "ignored there", "differs", "not given", "unknown", "left out"]
NOTE_KINDS: Mapping[NoteKind, str] = {
    "unknown": "Not a flag of this code",
    "no counterpart": "No counterpart in foretune",
    "ignored there": "Ignored by the original, therefore left out",
    "differs": "What the original does otherwise",
    "not given": "Not given, so the published protocol's",
    "left out": "Not a part of the run",
}
"""The kinds of notes in the order in which they are shown, with their headings."""


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on a flag.

    Attributes:
        kind: What it says of the flag.
        subject: The flag as the user wrote it, or what the remark is about.
        text: The remark.
        source: Where the published code or paper shows it; empty for what is foretune's own.
    """

    kind: NoteKind
    subject: str
    text: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.text}" + (f" [{self.source}]" if self.source else "")


@dataclass(frozen=True, slots=True)
class Migration:
    """One run, in the words of foretune.

    Attributes:
        origin: The research code and the script that the command was for.
        command: ``train`` or ``evaluate``.
        options: Values by option; names of nested options are dotted (``method.rank``).
        notes: What has no counterpart, was ignored, or differs.
    """

    origin: str
    command: Literal["train", "evaluate"]
    options: Mapping[str, Any]
    notes: tuple[Note, ...]

    @property
    def arguments(self) -> list[str]:
        """The words after ``foretune train`` (or ``evaluate``)."""
        return [word for name, value in self.options.items() for word in (_flag(name), _text(value))]

    @property
    def shell(self) -> str:
        """The command over several lines, quoted for a shell."""
        lines = [f"{_flag(name)} {shlex.quote(_text(value))}" for name, value in self.options.items()]
        return " \\\n    ".join([f"foretune {self.command}", *lines])

    @property
    def yaml(self) -> str:
        """The options as a file for ``--config``."""
        return as_yaml(self.options)


def as_yaml(options: Mapping[str, Any]) -> str:
    """Write options as YAML, dotted names nested."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        group, dot, setting = name.partition(".")
        if dot:
            nested.setdefault(group, {})[setting] = value
        else:
            nested[name] = value
    return yaml.safe_dump(nested, sort_keys=False)


def _flag(name: str) -> str:
    """``--zo-eps``, ``--method`` for its name, ``--method.matrix_lr_scale``: the spellings of the documents."""
    group, dot, setting = name.partition(".")
    if not dot:
        return "--" + name.replace("_", "-")
    return f"--{group}" if setting == "name" else f"--{name}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("e-0", "e-") if isinstance(value, float) else str(value)
