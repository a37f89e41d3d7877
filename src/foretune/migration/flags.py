"""A flag of published code, as a row of a table: what it is called, what it holds, and where its value goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foretune.errors import UsageError

_WORDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_TRUTH = {"true": True, "1": True, "yes": True, "y": True, "t": True} | {
    "false": False,
    "0": False,
    "no": False,
    "n": False,
    "f": False,
}
UNSET = ("None", "none", "null", "")
"""Values with which a flag is as good as absent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of a research code.

    Attributes:
        name: Its name there, without hyphens in front.
        kind: Type of its value.
        option: The option of foretune that takes the value as it is.
        neutral: Values that ask for what foretune does anyway.
        lacks: Why foretune has no counterpart, for any other value.
        reader: What has to be given there for the code to read it. Such a flag is translated together with others.
        becomes: What such a flag is here, for documents.
    """

    name: str
    kind: type = str
    option: str | None = None
    neutral: tuple[Any, ...] = ()
    lacks: str | None = None
    reader: str | None = None
    becomes: str = ""


def to(name: str, option: str, kind: type = str) -> Flag:
    """A flag whose value is that of an option."""
    return Flag(name=name, kind=kind, option=option)


def anyway(name: str, *values: Any, lacks: str) -> Flag:
    """A flag that at these values asks for what foretune does anyway; `lacks` is said of others."""
    return Flag(name=name, kind=type(values[0]), neutral=values, lacks=lacks)


def without(name: str, lacks: str) -> Flag:
    """A flag that has no counterpart, whatever its value."""
    return Flag(name=name, lacks=lacks)


def read(name: str, becomes: str, kind: type = str, *, reader: str = "a trainer that trains") -> Flag:
    """A flag that is translated together with others; at 0 or False it asks for nothing."""
    return Flag(name=name, kind=kind, becomes=becomes, reader=reader)


def table(*flags: Flag) -> Mapping[str, Flag]:
    """Return flags by name; of two with one name the later one counts."""
    return {flag.name: flag for flag in flags}


@dataclass(frozen=True, slots=True)
class Given:
    """A flag as a command gives it.

    Attributes:
        name: Its name, with underscores and without hyphens in front.
        text: Its value; None for a switch that is given alone.
        spelled: As the user wrote it, for messages: ``--learning_rate=1e-3``, or ``LR=1e-3`` in front of a script.
    """

    name: str
    text: str | None
    spelled: str

    def value(self, kind: type) -> Any:
        """Return the value, None where it says that there is none.

        Raises:
            UsageError: it is of another type, or is missing.
        """
        if kind is bool:
            if self.text is None:
                return True
            if self.text.lower() in _TRUTH:
                return _TRUTH[self.text.lower()]
        elif self.text in UNSET:
            return None
        elif self.text is not None:
            try:
                return kind(self.text)
            except ValueError:
                pass
        found = "nothing" if self.text is None else repr(self.text)
        raise UsageError(f"{self.spelled}: --{self.name} takes {_WORDS[kind]}, got {found}.")


def given_flags(arguments: list[str]) -> tuple[list[Given], list[str]]:
    """Read ``--flag value``, ``--flag=value`` and switches.

    Returns:
        The flags in order, and the words that belong to none.
    """
    flags: list[Given] = []
    stray: list[str] = []
    index = 0
    while index < len(arguments):
        word = arguments[index]
        index += 1
        if not word.startswith("--") or word == "--":
            stray.append(word)
            continue
        name, equals, text = word[2:].partition("=")
        value: str | None = text if equals else None
        spelled = word
        if not equals and index < len(arguments) and not arguments[index].startswith("--"):
            value = arguments[index]
            spelled = f"{word} {value}"
            index += 1
        flags.append(Given(name.replace("-", "_"), value, spelled))
    return flags, stray
