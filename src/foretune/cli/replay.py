"""`foretune replay`."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.cli.options import Options
from foretune.runs.config import ReplayConfig


def run(arguments: Sequence[str]) -> None:
    """Parse, replay, say where the model is."""
    arguments = ["--output" if argument == "-o" else argument for argument in arguments]
    config = Options(
        "replay", "Rebuild a run's model from base model and journal, without data.", ReplayConfig, positional="run"
    ).parse(arguments)

    from foretune.cli.display import quiet_libraries
    from foretune.runs.replay import replay_run

    quiet_libraries()
    num_steps = replay_run(config)
    print(f"Replayed {num_steps} steps of {config.run}; the model is in {config.output}.")
