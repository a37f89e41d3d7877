"""`foretune evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.cli.options import Options, find_value, flag
from foretune.errors import UsageError
from foretune.runs.config import EvaluateConfig


def run(arguments: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    config = parse(arguments)

    from foretune.cli.display import print_evaluation, quiet_libraries
    from foretune.runs.evaluate import evaluate

    quiet_libraries()
    evaluate(config, show=print_evaluation)


def parse(arguments: Sequence[str]) -> EvaluateConfig:
    """Read the options, those of the run whose model is evaluated first; its folder may stand in front.

    Raises:
        UsageError: an unknown option, a value of the wrong type, or a run whose settings cannot be read.
    """
    if arguments and not arguments[0].startswith("-"):
        if (other := find_value(arguments, "--model")) is not None:
            raise UsageError(f"Two models are given, {arguments[0]} and --model {other}; leave one out.")
        arguments = ["--model", *arguments]
    options = Options(
        "evaluate",
        "Figures of a model, an adapter or a run's final model (foretune evaluate RUN, by default on the run's own "
        "rows), as it is or with a baseline: demonstrations, calibration, a fitted head.",
        EvaluateConfig,
    )
    model = find_value(arguments, "--model")
    if model is None:
        return options.parse(arguments)

    from foretune.runs.finished import NAMED, evaluation_settings

    settings = evaluation_settings(model, {name: find_value(arguments, flag(name)) for name in NAMED})
    return options.parse(arguments, settings, f"--model {model}: its configuration")
