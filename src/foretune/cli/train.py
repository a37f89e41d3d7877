"""`foretune train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foretune.cli.options import find_value, read_config_file
from foretune.cli.recipe_options import nested, recipe_options
from foretune.runs.config import TrainConfig


def run(arguments: Sequence[str]) -> None:
    """Parse, train, print the closing table."""
    tune(parse(arguments))


def tune(config: TrainConfig) -> dict[str, Any]:
    """Train with progress in sight, print the closing table, and return the results."""
    from foretune.cli.display import Progress, print_results, quiet_libraries
    from foretune.runs.train import train

    quiet_libraries()
    with Progress() as progress:
        results = train(config, callbacks=[progress.callback])
    print_results(results, config.output)
    return results


def parse(arguments: Sequence[str]) -> TrainConfig:
    """Read the options, those of a file first.

    Raises:
        UsageError: an unknown method, an unknown option, a value of the wrong type.
    """
    path = find_value(arguments, "--config")
    file = nested(read_config_file(path), f"--config {path}") if path is not None else {}
    options, arguments = recipe_options(
        "train", "Tune a model on a task with forward passes only.", TrainConfig, arguments, file
    )
    return options.parse(arguments, file, f"--config {path}")
