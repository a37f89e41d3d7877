"""Moments at which Ctrl-C is pressed: the signal is raised when a function is called for the nth time."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from foretune.optimizer import Optimizer
from foretune.runs import sources, train
from foretune.trainer import checkpoint
from foretune.trainer.trainer import ZOTrainer

MOMENTS: dict[str, tuple[Any, str, int]] = {
    "before the weights are read": (sources, "load_model", 1),
    "while a loss is measured": (ZOTrainer, "measure", 3),
    "while weights are written": (Optimizer, "_move", 2),
    "while dev rows are evaluated": (ZOTrainer, "evaluate", 1),
    "while a checkpoint is written": (checkpoint, "save_optimizer", 1),
    "while the results are written": (train, "write_results", 1),
}
"""The owner of a function, its name, and the number of the call."""


def press(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C at a moment."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a shell that began the tests in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    owner, name, call = MOMENTS[moment]
    monkeypatch.setattr(owner, name, _pressed(getattr(owner, name), call))


def _pressed(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    num_calls = 0

    def pressed(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == call:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return pressed
