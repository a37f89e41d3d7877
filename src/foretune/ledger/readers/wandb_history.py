"""What all forms of W&B's logs share: rows of a history, settings, states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from foretune.ledger.metrics_file import numbers
from foretune.ledger.readers.base import by_step, scalar_name
from foretune.ledger.run import Point, Status

STATES: dict[str, Status] = {"finished": "finished", "failed": "failed", "crashed": "failed", "killed": "stopped"}
"""States of W&B; any other does not say how a run ended."""

_GLOBAL_STEPS = ("train/global_step", "global_step", "trainer/global_step")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def points_of(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return the figures of a history by optimizer step.

    W&B's own `_step` counts calls of `log`. Where a run has logged the Trainer's global step that counts instead, also
    for the calls after it that lack it; `_runtime` becomes `seconds`.
    """
    rows = list(rows)
    has_global = any(_global_step(row) is not None for row in rows)
    step, pairs = 0, []
    for index, row in enumerate(rows):
        found = _global_step(row) if has_global else row.get("_step", row.get("Step", index))
        step = step if found is None else int(float(found))
        pairs.append((step, figures_of(row)))
    return by_step(pairs)


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row or a summary, without W&B's own."""
    values = {name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in row.items()}
    figures = {
        scalar_name(name): value
        for name, value in numbers({name: value for name, value in values.items() if value is not None}).items()
        if not name.startswith("_") and name not in (*_GLOBAL_STEPS, "Step", "epoch", "train/epoch")
    }
    runtime = values.get("_runtime")
    return figures | ({"seconds": float(runtime)} if isinstance(runtime, int | float) and "_step" in row else {})


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a summary, which are the last ones unless a run has asked W&B for others."""
    return {f"last.{name}": value for name, value in figures_of(summary).items() if name != "seconds"}


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by name, out of W&B's ``{name: {"value": ...}}``, without its own."""
    return {
        name: value["value"] if isinstance(value, Mapping) and "value" in value else value
        for name, value in config.items()
        if not name.startswith("_") and name != "wandb_version"
    }


def _global_step(row: Mapping[str, Any]) -> Any:
    return next((row[name] for name in _GLOBAL_STEPS if row.get(name) is not None), None)
