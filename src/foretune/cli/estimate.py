"""`foretune estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from foretune.cli.recipe_options import recipe_options
from foretune.runs.config import EstimateConfig

if TYPE_CHECKING:
    from foretune.runs.estimate import Estimate

BASELINES = ("sgd", "adam")
"""First-order methods that are shown beside."""


def run(arguments: Sequence[str]) -> None:
    """Print what a run will need, beside inference and first-order training."""
    config = parse(arguments)
    config.check()

    from foretune.cli.display import quiet_libraries
    from foretune.cli.tables import print_table
    from foretune.runs.estimate import estimate

    quiet_libraries()
    method = config.method["name"]
    estimates = {method: estimate(config)}
    for name in BASELINES:
        if name != method:
            estimates[name] = estimate(
                replace(
                    config,
                    method={"name": name},
                    space=None,
                    direction=None,
                    update=None,
                    schedule=None,
                    lr=None,
                    zo_eps=None,
                    num_directions=None,
                    engine="auto",
                )
            )
    title = (
        f"{config.model}, {config.tuning['name']} tuning, {config.batch_size} x {config.sequence_length} tokens, "
        f"{config.objective} loss: MiB at most"
    )
    columns = ("", "weights", "state", "scratch", "activations", "gradients", "update", "peak", "x inf.")
    first = next(iter(estimates.values()))
    inference = ("inference", _mib(first.weights), "-", "-", _mib(first.inference), "-", "-")
    rows = [(*inference, _mib(first.inference_peak), "1.00")]
    rows += [_row(name, found, first.inference_peak) for name, found in estimates.items()]
    print_table(title, columns, rows)
    print(_notes())


def parse(arguments: Sequence[str]) -> EstimateConfig:
    """Read the options.

    Raises:
        UsageError: an unknown method, an unknown option, a value of the wrong type.
    """
    description = "Predict the memory of a run before anything is loaded."
    options, arguments = recipe_options("estimate", description, EstimateConfig, arguments, {})
    return options.parse(arguments)


def _row(name: str, found: Estimate, inference: int) -> tuple[str, ...]:
    parts = (found.weights, found.state, found.scratch, found.activations, found.gradients, found.update)
    return name, *(_mib(part) for part in parts), _mib(found.peak), f"{found.peak / inference:.2f}"


def _mib(number: int) -> str:
    mib = number / 2**20
    return f"{mib:,.0f}" if mib >= 100 else f"{mib:.1f}" if number else "-"


def _notes() -> str:
    import torch

    from foretune.runs.costs import peak_memory_bytes

    process = _mib(peak_memory_bytes(torch.device("cpu")))
    return (
        "Peak: weights, state and scratch, with the larger of activations (of backpropagation: with the gradients that "
        "are made among them) and gradients and update. The process itself comes on top: now "
        f"{process} MiB of libraries, or a GPU's context, and up to 10 MiB of buffers that the matrix "
        "product keeps."
    )
