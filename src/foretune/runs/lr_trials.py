"""Short runs with learning rates of a grid, from the same weights, judged on rows that no step sees."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from torch import nn

from foretune.engine import EngineName
from foretune.errors import ForetuneError
from foretune.optimizer import Optimizer
from foretune.runs.kept_weights import KeptWeights
from foretune.runs.lr_model import Trial
from foretune.runs.sampled_loss import SampledLoss

SEARCH_STEPS = 10
"""Length of the runs that look for a learning rate at which the loss breaks."""
SEARCH_FACTOR = 10.0
BREAKING_SHARE = 0.05
"""Rise of the loss at which it is broken, as a share of the loss."""
MAX_SEARCHES = 12
GRID_FACTOR = math.sqrt(10.0)
GRID_SIZE = 4

_ASKED_STEPS = 200


class LrTrials:
    """Makes trials; after each the weights are what they were, bit for bit.

    Args:
        model: What is tuned.
        arguments: Those of `Optimizer`, given a learning rate.
        loss: The rows.
        kept: The weights to begin with.
        engine: How losses are evaluated; one that is chosen in the first trial serves all.
        seed: Of directions and batches; each trial has its own, so that chance averages out between them.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: Callable[[float], Mapping[str, Any]],
        loss: SampledLoss,
        kept: KeptWeights,
        *,
        engine: EngineName,
        seed: int,
    ) -> None:
        self._model = model
        self._arguments = arguments
        self._loss = loss
        self._kept = kept
        self._seed = seed
        self._start = loss.held_out()
        self._seconds = 0.0
        self._forwards = 0
        self._num_forwards_at: Callable[[int], int]
        self.engine = engine
        self.made: list[Trial] = []

    @property
    def start_loss(self) -> float:
        """Mean loss of the held-out rows at the beginning."""
        return fmean(self._start)

    @property
    def limit(self) -> float:
        """Rise at which the loss is broken: a share of it, or less where it differs less between batches."""
        return min(pstdev(self._start), BREAKING_SHARE * abs(self.start_loss)) or BREAKING_SHARE

    def seconds_per_step(self, steps: int) -> float:
        """Return the mean duration of a step in a run of this length, where not all steps may take as many forwards.

        The first step of each trial does not count: it chooses the engine.
        """
        asked = {round(step) for step in np.linspace(0, steps - 1, _ASKED_STEPS)}
        return self._seconds / self._forwards * fmean(map(self._num_forwards_at, asked))

    def search(self, lr: float) -> float:
        """Return the smallest learning rate that breaks the loss, of `lr` times powers of ten.

        Raises:
            ForetuneError: none within reach does, or all do.
        """
        breaks = self._breaks(lr)
        factor = 1 / SEARCH_FACTOR if breaks else SEARCH_FACTOR
        for number in range(1, MAX_SEARCHES + 1):
            if self._breaks(lr * factor**number) != breaks:
                return lr * factor ** (number - breaks)
        last = self.made[-1].lr
        if breaks:
            raise ForetuneError(f"Every learning rate down to {last:g} breaks the loss within {SEARCH_STEPS} steps.")
        raise ForetuneError(
            f"No learning rate up to {last:g} raises the loss by {self.limit:.2g} within {SEARCH_STEPS} steps: the "
            "objective hardly depends on what is tuned."
        )

    def make_grid(self, breaking_lr: float, steps: int) -> None:
        """Make longer trials with learning rates below the one that breaks the loss."""
        for number in range(1, GRID_SIZE + 1):
            self.run(breaking_lr / GRID_FACTOR**number, steps)

    def run(self, lr: float, steps: int) -> Trial:
        """Make one trial; it ends where a loss is not finite."""
        self._seed += 1
        optimizer = Optimizer(self._model, **self._arguments(lr), engine=self.engine, seed=self._seed)
        try:
            is_whole = self._make_steps(optimizer, steps)
            after = self._loss.held_out() if is_whole else [math.inf]
        finally:
            self._kept.restore()
        self.engine, self._num_forwards_at = optimizer.engine_name, optimizer.num_forwards_at
        is_whole = all(map(math.isfinite, after))
        changes = [late - early for late, early in zip(after, self._start, strict=True)] if is_whole else [math.inf]
        trial = Trial(
            lr=lr,
            steps=steps,
            change=fmean(changes),
            spread=pstdev(changes) if is_whole else math.inf,
            num_batches=len(self._start),
        )
        self.made.append(trial)
        return trial

    def _make_steps(self, optimizer: Optimizer, steps: int) -> bool:
        """Make steps and note how long they take; return whether all losses were finite."""
        with _quiet():
            for sample in islice(self._loss.samples(self._seed), steps):
                self._loss.use(sample)
                start = time.perf_counter()
                if not math.isfinite(optimizer.estimate(self._loss)):
                    return False
                optimizer.step()
                if optimizer.num_steps > 1:
                    self._seconds += time.perf_counter() - start
                    self._forwards += optimizer.num_forwards_at(optimizer.num_steps - 1)
        return True

    def _breaks(self, lr: float) -> bool:
        return self.run(lr, SEARCH_STEPS).change > self.limit


@contextmanager
def _quiet() -> Iterator[None]:
    """Losses that are not finite, of which the optimizer warns, are what some trials look for."""
    logger = logging.getLogger(Optimizer.__module__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
