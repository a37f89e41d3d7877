"""Options of a command, read off its configuration class, and errors about them in one line."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import typing
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from jsonargparse import ArgumentParser

from foretune.errors import UsageError, near_misses
from foretune.user_yaml import kind_of, read_yaml

_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def flag(name: str) -> str:
    """The spelling of a field on the command line."""
    return "--" + name.replace("_", "-")


def type_words(hint: Any) -> str:
    """Say what values a type admits."""
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) in (UnionType, typing.Union):
        return " or ".join(type_words(part) for part in typing.get_args(hint) if part is not NoneType)
    if typing.get_origin(hint) is tuple:
        return f"a list [{', '.join(map(type_words, typing.get_args(hint)))}]"
    if element := _element(hint):
        return f"a list of {_PLURALS.get(element, type_words(element))}"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _element(hint: Any) -> Any:
    """The type of a list's elements, for a list or an optional one; None for other types."""
    lists = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is list]
    return typing.get_args(lists[0])[0] if lists else None


def find_value(arguments: Sequence[str], option: str) -> str | None:
    """Return the last value given to `option`, before the real parsing; None if it is not there."""
    value = None
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            value = arguments[index + 1]
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
    return value


def read_config_file(path: str) -> dict[str, Any]:
    """Read a YAML file of options.

    Raises:
        UsageError: no such file, not YAML, not a mapping, or a name that is there twice.
    """
    place = f"--config {path}"
    if not Path(path).is_file():
        raise UsageError(f"{place}: there is no such file.")
    content = read_yaml(path, place)
    if not isinstance(content, dict):
        raise UsageError(f"{place}: expected options (name: value), found {kind_of(content)}.")
    options: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in options:
            raise UsageError(f"{place}: {key} is there twice, with a hyphen and with an underscore.")
        options[name] = value
    return options


class Options:
    """The options of one command: a `--name-with-hyphens` for every field of its configuration class.

    Args:
        command: Name of the command.
        description: One line for its help.
        config: A dataclass; fields with a ``help`` in their metadata become options.
        positional: Name of the field that is given without a flag, if there is one.
    """

    def __init__(self, command: str, description: str, config: type, *, positional: str | None = None) -> None:
        self._config = config
        self._types: dict[str, Any] = {}
        self.parser = ArgumentParser(
            prog=f"foretune {command}", description=description, exit_on_error=False, allow_abbrev=False
        )
        hints = typing.get_type_hints(config)
        for option in dataclasses.fields(config):
            if option.name == positional:
                self.parser.add_argument(positional, type=str, help=option.metadata["help"])
            elif "help" in option.metadata:
                made = option.default_factory() if option.default is dataclasses.MISSING else option.default  # type: ignore[misc]
                self.add(option.name, hints[option.name], made, option.metadata["help"])

    def add(self, name: str, hint: Any, default: Any, help_text: str) -> None:
        """Add one option; a dotted name becomes a nested key.

        A switch that is off by default takes no value, so that a positional argument may follow it; any other switch
        may take one: `--method.align false`, `--method.adaselect`. A list takes all values up to the next option.
        """
        self._types[name] = hint
        flags = dict.fromkeys((flag(name), f"--{name}"))
        if hint is bool and default is False:
            self.parser.add_argument(*flags, action="store_true", default=default, help=help_text)
        elif bool in (hint, *typing.get_args(hint)):
            self.parser.add_argument(*flags, type=hint, nargs="?", const=True, default=default, help=help_text)
        elif element := _element(hint):
            self.parser.add_argument(*flags, type=element, nargs="+", default=default, help=help_text)
        else:
            self.parser.add_argument(*flags, type=hint, default=default, help=help_text)

    def parse(self, arguments: Sequence[str], file: Mapping[str, Any] | None = None, place: str = "") -> Any:
        """Return the configuration; `arguments` win over `file`, which messages call `place`.

        Raises:
            UsageError: an unknown option (near misses suggested) or a value of the wrong type.
        """
        try:
            self._check_file(file or {})
            namespace = self._read(self.parser.parse_object, dict(file)) if file else None
        except UsageError as error:
            raise UsageError(f"{place}: {error}" if place else str(error)) from None
        return self._config(**self._read(self.parser.parse_args, list(arguments), namespace=namespace).as_dict())

    def _read(self, parse: Callable[..., Any], *given: Any, **more: Any) -> Any:
        try:
            return parse(*given, **more)
        except (ArgumentError, TypeError, KeyError) as error:
            raise UsageError(self._explain(str(error))) from None

    def _check_file(self, file: Mapping[str, Any], prefix: str = "") -> None:
        """Refuse names that are no options, and values that the parser would take although they are of other types."""
        for key, value in file.items():
            name = f"{prefix}{key}"
            hint = self._types.get(name)
            if isinstance(value, dict) and hint is None:
                self._check_file(value, f"{name}.")
            elif hint is None:
                raise UsageError(self._unknown(flag(name)))
            elif (_element(hint) and not isinstance(value, list | None)) or (
                hint is bool and not isinstance(value, bool)
            ):
                raise UsageError(f"{flag(name)} must be {type_words(hint)}, got {str(value)!r:.60}.")

    def _explain(self, text: str) -> str:
        if found := re.search(r"unrecognized arguments: (\S+)", text):
            return self._unknown(found[1].split("=")[0])
        if found := re.search(r"argument (--[\w.-]+)\S*: expected (?:one|at least one) argument", text):
            name = found[1].removeprefix("--").replace("-", "_")
            return f"{found[1].removesuffix('.name')} needs a value: {type_words(self._types[name])}."
        if found := re.search(r"argument (--[\w.-]+)\S*: ignored explicit argument (.*)", text):
            return f"{found[1]} takes no value, got {found[2]}. Leave the value out."
        if found := re.search(r"the following arguments are required: (\w+)", text):
            return f"{self.parser.prog} needs a {found[1].upper()}: {self.parser.prog} {found[1].upper()} [OPTIONS]."
        key = re.search(r'Parser key "([\w.]+)"', text)
        value = re.search(r"(?:Given value: |Got value: )(.*)", text)
        if key and value and key[1] in self._types:
            return f"{flag(key[1])} must be {type_words(self._types[key[1]])}, got {value[1].strip()!r}."
        return " ".join(text.split())

    def _unknown(self, spelling: str) -> str:
        if not spelling.startswith("-"):
            return f"Unexpected argument {spelling!r}."
        group = spelling.partition(".")[0] + "."  # of a nested option, the others of its group are worth listing
        known = [flag(name) for name in self._types if flag(name).startswith(group)]
        if known:
            return f"Unknown option {spelling} of this {group.strip('-.')}.{near_misses(spelling, known)}"
        close = difflib.get_close_matches(spelling, map(flag, self._types), n=3)
        hint = f" Did you mean: {', '.join(close)}?" if close else ""
        return f"Unknown option {spelling}.{hint} '{self.parser.prog} --help' lists them all."


def write_error(message: str) -> None:
    """Print one line to standard error."""
    print(f"foretune: error: {' '.join(message.split())}", file=sys.stderr)
