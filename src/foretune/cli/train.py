"""`foretune train`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any

from foretune.cli.options import Options, find_value, read_config_file
from foretune.errors import UsageError
from foretune.runs.config import TrainConfig

DEFAULT_METHOD = "mezo"
DEFAULT_TUNING = "full"


def run(arguments: Sequence[str]) -> None:
    """Parse, train, print the closing table."""
    config = parse(arguments)

    from foretune.cli.display import Progress, print_results, quiet_libraries
    from foretune.runs.train import train

    quiet_libraries()
    with Progress() as progress:
        results = train(config, callbacks=[progress.callback])
    print_results(results, config.output)


def parse(arguments: Sequence[str]) -> TrainConfig:
    """Read the options; those under ``--method.`` and ``--tuning.`` are the settings of what is named there.

    Raises:
        UsageError: an unknown method, an unknown option, a value of the wrong type.
    """
    from foretune.adapters import TUNINGS, tuning_class
    from foretune.composition import AXES, part_class
    from foretune.methods import RECIPES, AbstractMethod, make_method, option_help

    groups = "|".join(("method", "tuning", *AXES))
    arguments = [re.sub(rf"^--({groups})(?==|$)", r"--\1.name", argument) for argument in arguments]
    path = find_value(arguments, "--config")
    file = _nested(read_config_file(path)) if path is not None else {}
    name = _named("method", arguments, file) or DEFAULT_METHOD

    options = Options("train", "Tune a model on a task with forward passes only.", TrainConfig)
    options.add("config", str | None, None, "YAML file with any of these options; the command line wins.")
    options.add("method.name", str, DEFAULT_METHOD, "Method, also spelled --method NAME; see foretune methods.")
    recipe = RECIPES.get(name)
    _add_settings(options, "method", recipe, option_help(recipe))
    scheme = tuning_class(_named("tuning", arguments, file) or DEFAULT_TUNING)
    known = ", ".join(TUNINGS)
    options.add("tuning.name", str, DEFAULT_TUNING, f"What is tuned: {known}; also spelled --tuning NAME.")
    _add_settings(options, "tuning", scheme, option_help(scheme))
    own_parts = make_method(name, {}).parts() if issubclass(recipe, AbstractMethod) else None
    for axis in AXES:
        chosen = _named(axis, arguments, file)
        if own_parts is None:
            if chosen is not None:
                raise UsageError(
                    f"--{axis} {chosen}: '{name}' is not made of parts, so none can be replaced. Leave it out."
                )
            continue
        part = part_class(axis, chosen) if chosen is not None else type(getattr(own_parts, axis))
        options.add(f"{axis}.name", str | None, None, f"Another {axis} for the method, also spelled --{axis} NAME.")
        _add_settings(options, axis, part, option_help(part))
    return options.parse(arguments, file)


def _nested(file: dict[str, Any]) -> dict[str, Any]:
    """Bring the content of a file into one form: mappings with a name, changes of parts beside the method."""
    from foretune.composition import AXES

    method = file.get("method")
    if isinstance(method, dict):
        file = {**file, "method": {name: value for name, value in method.items() if name not in AXES}}
        file |= {name: value for name, value in method.items() if name in AXES}
    for group in ("method", "tuning", *AXES):
        if isinstance(file.get(group), str):
            file = {**file, group: {"name": file[group]}}
        elif not isinstance(file.get(group), dict | None):
            raise UsageError(f"--config: {group} must be a name, or a name and settings, got {file[group]!r}.")
    return file


def _named(group: str, arguments: Sequence[str], file: dict[str, Any]) -> str | None:
    """Return the name that the command line, or else the file, gives for a method, scheme or part."""
    return find_value(arguments, f"--{group}.name") or (file.get(group) or {}).get("name")


def _add_settings(options: Options, group: str, recipe: type, texts: dict[str, str]) -> None:
    """Add an option for every setting of a class, without a default: what is not given stays its own."""
    hints = typing.get_type_hints(recipe)
    for setting in dataclasses.fields(recipe):
        options.add(f"{group}.{setting.name}", hints[setting.name] | None, None, texts.get(setting.name, ""))
