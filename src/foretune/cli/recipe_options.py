"""Options of commands that are given a method and what it tunes."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from foretune.cli.options import Options, find_value
from foretune.errors import UsageError

DEFAULT_METHOD = "mezo"
DEFAULT_TUNING = "full"


def recipe_options(
    command: str, description: str, config: type, arguments: Sequence[str], file: Mapping[str, Any]
) -> tuple[Options, list[str]]:
    """Return the options of a command that is given a method, and its arguments as they are to be parsed.

    Those under ``--method.``, ``--tuning.`` and the name of an axis are the settings of what is named there.

    Args:
        command: Name of the command.
        description: One line for its help.
        config: Its configuration, a `RecipeConfig`.
        arguments: Of the command line.
        file: Options of a file, as `nested` gives them.
    Raises:
        UsageError: an unknown method, scheme or part; or a part of a method that has none.
    """
    from foretune.composition import AXES

    groups = "|".join(("method", "tuning", *AXES))
    arguments = [re.sub(rf"^--({groups})(?==|$)", r"--\1.name", argument) for argument in arguments]
    names = tuple((group, _named(group, arguments, file)) for group in ("method", "tuning", *AXES))
    return _make_options(command, description, config, names), arguments


@lru_cache(maxsize=128)  # a sweep reads the options of thousands of runs, which name the same few methods
def _make_options(command: str, description: str, config: type, names: tuple[tuple[str, str | None], ...]) -> Options:
    """Make the options of a command; `names` says what is named for method, tuning scheme and parts."""
    from foretune.adapters import TUNINGS, tuning_class
    from foretune.composition import AXES, part_class
    from foretune.methods import RECIPES, AbstractMethod, make_method, option_help

    named = dict(names)
    name = named["method"] or DEFAULT_METHOD
    options = Options(command, description, config)
    options.add("method.name", str, DEFAULT_METHOD, "Method, also spelled --method NAME; see foretune methods.")
    recipe = RECIPES.get(name)
    _add_settings(options, "method", recipe, option_help(recipe))
    scheme = tuning_class(named["tuning"] or DEFAULT_TUNING)
    known = ", ".join(TUNINGS)
    options.add("tuning.name", str, DEFAULT_TUNING, f"What is tuned: {known}; also spelled --tuning NAME.")
    _add_settings(options, "tuning", scheme, option_help(scheme))
    own_parts = make_method(name, {}).parts() if issubclass(recipe, AbstractMethod) else None
    for axis in AXES:
        chosen = named[axis]
        if own_parts is None:
            if chosen is not None:
                raise UsageError(
                    f"--{axis} {chosen}: '{name}' is not made of parts, so none can be replaced. Leave it out."
                )
            continue
        part = part_class(axis, chosen) if chosen is not None else type(getattr(own_parts, axis))
        options.add(f"{axis}.name", str | None, None, f"Another {axis} for the method, also spelled --{axis} NAME.")
        _add_settings(options, axis, part, option_help(part))
    return options


def nested(file: dict[str, Any], place: str) -> dict[str, Any]:
    """Bring the content of a file into one form: mappings with a name, changes of parts beside the method.

    Raises:
        UsageError: a method, scheme or part is something else; the message begins with `place`.
    """
    from foretune.composition import AXES

    method = file.get("method")
    if isinstance(method, dict):
        file = {**file, "method": {name: value for name, value in method.items() if name not in AXES}}
        file |= {name: value for name, value in method.items() if name in AXES}
    for group in ("method", "tuning", *AXES):
        if isinstance(file.get(group), str):
            file = {**file, group: {"name": file[group]}}
        elif not isinstance(file.get(group), dict | None):
            raise UsageError(f"{place}: {group} must be a name, or a name and settings, got {file[group]!r}.")
    return file


def _named(group: str, arguments: Sequence[str], file: Mapping[str, Any]) -> str | None:
    """Return the name that the command line, or else the file, gives for a method, scheme or part."""
    return find_value(arguments, f"--{group}.name") or (file.get(group) or {}).get("name")


def _add_settings(options: Options, group: str, recipe: type, texts: dict[str, str]) -> None:
    """Add an option for every setting of a class, without a default: what is not given stays its own."""
    hints = typing.get_type_hints(recipe)
    for setting in dataclasses.fields(recipe):
        options.add(f"{group}.{setting.name}", hints[setting.name] | None, None, texts.get(setting.name, ""))
