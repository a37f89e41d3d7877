"""`foretune evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.cli.options import Options
from foretune.runs.config import EvaluateConfig


def run(arguments: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    config = Options(
        "evaluate",
        "Figures of a model, an adapter or a run's final model on a task, as it is or with a baseline: demonstrations, "
        "calibration, a fitted head.",
        EvaluateConfig,
    ).parse(arguments)

    from foretune.cli.display import print_evaluation, quiet_libraries
    from foretune.runs.evaluate import evaluate

    quiet_libraries()
    print_evaluation(evaluate(config))
