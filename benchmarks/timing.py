"""Repeated measurements side by side, and what is kept of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune import Optimizer
from foretune.engine import Perturbation
from foretune.types import LossClosure

Seconds = dict[str, float]
Case = Callable[[], Seconds]
"""Does something once and returns how long its parts took."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and the values below which 20 and 80 % of `n` measurements lie."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, samples: list[float]) -> Spread:
        """Summarise measurements."""
        low, value, high = (float(quantile) for quantile in np.quantile(samples, (0.2, 0.5, 0.8)))
        return cls(value, low, high, len(samples))

    @classmethod
    def of_ratio(cls, above: list[float], below: list[float]) -> Spread:
        """Summarise ratios within a round: what slows down the whole machine for a while cancels."""
        return cls.of([a / b for a, b in zip(above, below, strict=True)])


def interleave(cases: Mapping[str, Case], repeats: int) -> dict[str, list[Seconds]]:
    """Run A B C A B C ... and return each case's measurements; a first round warms up and is not counted."""
    measured: dict[str, list[Seconds]] = {name: [] for name in cases}
    for number in range(repeats + 1):
        for name, case in cases.items():
            seconds = case()
            if number > 0:
                measured[name].append(seconds)
    return measured


def timed(action: Callable[[], Any]) -> Case:
    """Make a case of an action that is timed as a whole."""

    def case() -> Seconds:
        start = time.perf_counter()
        action()
        return {"step": time.perf_counter() - start}

    return case


class TimedStep:
    """A step of our optimizer, split into its parts from outside: no instrument is in the library.

    Parts: ``forward`` (the closure without the writes made inside it; hooks count as forward), ``noise
    write`` (making perturbed copies), ``update`` (``step()`` after ``estimate()``), ``overhead`` (the rest:
    sessions, copies of the in_place engine), ``step`` (all).
    """

    def __init__(self, optimizer: Optimizer, closure: LossClosure) -> None:
        self._optimizer = optimizer
        self._closure = closure
        self._evaluating = False
        self._evaluation = self._writes = self._writes_inside = 0.0
        optimizer.step(closure)  # the audit and the choice of the engine
        engine = optimizer.engine
        assert engine is not None
        evaluate = engine.loss
        engine.loss = lambda closure, perturbation: evaluate(  # type: ignore[method-assign]
            closure, perturbation and _TimedPerturbation(perturbation, self._note_write)
        )

    def __call__(self) -> Seconds:
        """Make one step."""
        self._evaluation = self._writes = self._writes_inside = 0.0
        start = time.perf_counter()
        self._optimizer.estimate(self._evaluate)
        estimated = time.perf_counter()
        self._optimizer.step()
        stop = time.perf_counter()
        forward, update = self._evaluation - self._writes_inside, stop - estimated
        return {
            "step": stop - start,
            "forward": forward,
            "noise write": self._writes,
            "update": update,
            "overhead": stop - start - forward - self._writes - update,
        }

    def _evaluate(self) -> Any:
        start = time.perf_counter()
        self._evaluating = True
        try:
            return self._closure()
        finally:
            self._evaluating = False
            self._evaluation += time.perf_counter() - start

    def _note_write(self, seconds: float) -> None:
        self._writes += seconds
        if self._evaluating:
            self._writes_inside += seconds


class _TimedPerturbation:
    """Passes everything on and reports how long writes take."""

    def __init__(self, perturbation: Perturbation, note: Callable[[float], None]) -> None:
        self.moves = perturbation.moves
        self._write = perturbation.write
        self._note = note

    def write(self, *args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        self._write(*args, **kwargs)
        self._note(time.perf_counter() - start)
