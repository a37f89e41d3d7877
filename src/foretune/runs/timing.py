"""Repeated measurements side by side: a clock, cases in turns, and a step split into its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foretune.optimizer import Optimizer
from foretune.types import LossClosure

Seconds = dict[str, float]
"""How long something took as a whole (``step``), and its parts."""
Case = Callable[[], Seconds]
"""Does something once and returns how long it took."""

PARTS = ("forward", "noise", "update", "overhead")
"""What a step is made of."""


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


class Clock:
    """Marks moments of the host, or of a CUDA device's stream, for which the host does not wait.

        start = clock.mark(); work(); stop = clock.mark(); clock.wait(); clock.seconds(start, stop)

    Args:
        device: What does the work.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._has_stream = self.device.type == "cuda"

    def mark(self) -> Any:
        """Return this moment: on a GPU, the one at which the work queued so far will be done."""
        if not self._has_stream:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self) -> None:
        """Wait until the device has done what is queued; only then can its marks be read."""
        if self._has_stream:
            torch.cuda.synchronize(self.device)

    def seconds(self, start: Any, stop: Any) -> float:
        """Return the time between two marks."""
        return start.elapsed_time(stop) / 1e3 if self._has_stream else stop - start


def interleave(cases: Mapping[str, Case], repeats: int) -> dict[str, list[Seconds]]:
    """Run A B C A B C ... and return each case's measurements; a first round warms up and is not counted."""
    measured: dict[str, list[Seconds]] = {name: [] for name in cases}
    for number in range(repeats + 1):
        for name, case in cases.items():
            seconds = case()
            if number > 0:
                measured[name].append(seconds)
    return measured


def timed(action: Callable[[], Any], clock: Clock | None = None) -> Case:
    """Make a case of an action that is timed as a whole."""
    clock = clock or Clock()

    def case() -> Seconds:
        clock.wait()
        start = clock.mark()
        action()
        stop = clock.mark()
        clock.wait()
        return {"step": clock.seconds(start, stop)}

    return case


class TimedStep:
    """A step of our optimizer, split into its parts from outside: no instrument is in the library.

    Parts: ``forward`` (the closure without the writes made inside it; hooks count as forward), ``noise`` (making
    perturbed copies and tangents), ``update`` (`step()` after `estimate()`, and the moves that a sequential schedule
    makes between blocks), ``overhead`` (the rest: sessions, copies of the in_place engine, what a schedule or space
    does before a step), ``step`` (all).

    Args:
        optimizer: Its first step is made here: it chooses the engine and makes the state.
        closure: The loss.
        clock: Of the model's device.
    Raises:
        IncompatibleError: the engine that was asked for cannot serve the model.
    """

    def __init__(self, optimizer: Optimizer, closure: LossClosure, clock: Clock | None = None) -> None:
        self._optimizer = optimizer
        self._closure = closure
        self._clock = clock or Clock()
        self._evaluating = self._estimating = False
        self._evaluations: list[tuple[Any, Any]] = []
        self._writes: list[tuple[Any, Any, bool]] = []
        self._moves: list[tuple[Any, Any]] = []
        optimizer.step(closure)
        engine: Any = optimizer.engine
        for name in ("loss", "losses", "slope"):
            setattr(engine, name, self._watching(getattr(engine, name)))
        optimizer._move = self._watching_moves(optimizer._move)  # type: ignore[method-assign]

    def __call__(self) -> Seconds:
        """Make one step."""
        clock = self._clock
        for marks in (self._evaluations, self._writes, self._moves):
            marks.clear()
        clock.wait()
        start = clock.mark()
        self._estimating = True
        try:
            self._optimizer.estimate(self._evaluate)
        finally:
            self._estimating = False
        estimated = clock.mark()
        self._optimizer.step()
        stop = clock.mark()
        clock.wait()
        writes = [(clock.seconds(*marks), inside) for *marks, inside in self._writes]
        noise = sum(seconds for seconds, _ in writes)
        forward = sum(clock.seconds(*marks) for marks in self._evaluations)
        forward -= sum(seconds for seconds, inside in writes if inside)
        update = sum(clock.seconds(*marks) for marks in [*self._moves, (estimated, stop)])
        whole = clock.seconds(start, stop)
        return {
            "step": whole,
            "forward": forward,
            "noise": noise,
            "update": update,
            "overhead": whole - forward - noise - update,
        }

    def _evaluate(self) -> Any:
        start = self._clock.mark()
        self._evaluating = True
        try:
            return self._closure()
        finally:
            self._evaluating = False
            self._evaluations.append((start, self._clock.mark()))

    def _watching(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap an evaluation of the engine so that its writes are timed."""

        def watched(closure: LossClosure, displacement: Any) -> Any:
            several = isinstance(displacement, list)
            return evaluate(closure, [*map(self._timing, displacement)] if several else self._timing(displacement))

        return watched

    def _timing(self, displacement: Any) -> Any:
        """Wrap a displacement, if it is one and not yet wrapped: `losses` may ask for one `loss` after the other."""
        if displacement is None or isinstance(displacement, _TimedWrites):
            return displacement
        return _TimedWrites(displacement, self._time_write)

    def _watching_moves(self, move: Callable[..., None]) -> Callable[..., None]:
        """Wrap the update of a block so that it is timed where it is part of measuring."""

        def watched(*args: Any) -> None:
            start = self._clock.mark()
            move(*args)
            if self._estimating:
                self._moves.append((start, self._clock.mark()))

        return watched

    def _time_write(self, write: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        start = self._clock.mark()
        try:
            return write(*args, **kwargs)
        finally:
            self._writes.append((start, self._clock.mark(), self._evaluating))


class _TimedWrites:
    """A perturbation or tangent: all that it makes is timed, but not the question whether it moves a tensor."""

    def __init__(self, displacement: Any, time_write: Callable[..., Any]) -> None:
        self.moves = displacement.moves
        self._displacement = displacement
        self._time_write = time_write

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._displacement, name)
        if not callable(method):
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            # one displacement may be asked about another
            bare = [arg._displacement if isinstance(arg, _TimedWrites) else arg for arg in args]
            return self._time_write(method, bare, kwargs)

        return write
