"""`foretune train`."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence

from foretune.cli.options import Options, find_value, read_config_file
from foretune.runs.config import TrainConfig

DEFAULT_METHOD = "mezo"


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
    """Read the options; those under ``--method.`` are the settings of the method that is named.

    Raises:
        UsageError: an unknown method, an unknown option, a value of the wrong type.
    """
    from foretune.methods import METHODS, option_help

    arguments = [re.sub(r"^--method(?==|$)", "--method.name", argument) for argument in arguments]
    path = find_value(arguments, "--config")
    file = read_config_file(path) if path is not None else {}
    if isinstance(file.get("method"), str):
        file["method"] = {"name": file["method"]}
    in_file = (file.get("method") or {}).get("name")
    name = find_value(arguments, "--method.name") or in_file or DEFAULT_METHOD

    options = Options("train", "Tune a model on a task with forward passes only.", TrainConfig)
    options.add("config", str | None, None, "YAML file with any of these options; the command line wins.")
    options.add("method.name", str, DEFAULT_METHOD, "Method, also spelled --method NAME; see foretune methods.")
    recipe = METHODS.get(name)
    texts, hints = option_help(recipe), typing.get_type_hints(recipe)
    for setting in dataclasses.fields(recipe):
        options.add(f"method.{setting.name}", hints[setting.name] | None, None, texts.get(setting.name, ""))
    return options.parse(arguments, file)
