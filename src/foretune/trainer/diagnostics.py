"""What the weights are like while they are tuned, and how near the estimate comes to the true gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from foretune.engine import eval_mode
from foretune.errors import UsageError
from foretune.parameters import collect_trainables
from foretune.trainer.base import AbstractTrainer
from foretune.trainer.step_loss import StepLoss
from foretune.trainer.trainer import ZOTrainer
from foretune.types import Trainable

MAX_ELEMENTS = 2**31
"""Trained numbers above which no gradient is computed and no copy of the first weights is kept (8 GiB in float32)."""

logger = logging.getLogger(__name__)


class Diagnostics(TrainerCallback):
    """Writes figures about weights and estimate to metrics.jsonl every `interval` steps; no bit of the run changes.

        trainer.add_callback(Diagnostics(trainer, interval=100))

    A line ``{"step": t, "diagnostics": {group: figures}}`` describes the weights after t steps and the estimate of the
    next one. Groups: ``lora_a`` and ``lora_b``, otherwise ``matrices`` and ``vectors``, and ``all`` together. Figures:

        norm, mean, variance    of the trained numbers
        distance                from where they were when this callback was made
        gradient_norm           |g|, by backpropagation on the batch of the step, without dropout
        estimate_norm           |e|, the zeroth-order estimate, lifted to the tensors' own shapes
        cosine                  <e, g> / (|e| |g|)
        relative_variance       |e - g|^2 / |g|^2, whose mean is the relative variance of an unbiased estimate

    The last four are about the tensors that move at the step. They are left out, and one warning says so, where they
    cannot be had: more than `max_elements` trained numbers, a schedule whose blocks are measured at different weights,
    a loss without a gradient, or too little memory for one. Runs that follow gradients have none of the four
    (metrics.jsonl holds the gradients' norm). Memory: a copy of the trained tensors; at these steps a gradient and
    the activations.

    Args:
        trainer: A trainer of this package whose training has not begun.
        interval: Steps between lines.
        max_elements: Trained numbers up to which gradient and distance are computed.
    Raises:
        UsageError: `interval` is below 1.
    """

    def __init__(self, trainer: AbstractTrainer, interval: int, *, max_elements: int = MAX_ELEMENTS) -> None:
        if interval < 1:
            raise UsageError(f"interval must be at least 1, got {interval}.")
        self._trainer = trainer
        self._interval = interval
        self._trainables = collect_trainables(trainer.model)
        num_elements = sum(trainable.parameter.numel() for trainable in self._trainables)
        self._start: dict[Trainable, Tensor] = {}
        self._compares = isinstance(trainer, ZOTrainer)
        if num_elements > max_elements:
            self._compares = False
            logger.warning(
                "Diagnostics leave out gradient and distance: %d numbers are trained, more than %d.",
                num_elements,
                max_elements,
            )
        else:
            self._start = {t: t.parameter.detach().to("cpu", copy=True) for t in self._trainables}

    def is_due(self, step: int) -> bool:
        """Whether a line is written before the update of this step."""
        return step % self._interval == 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See whether the method has an estimate to compare."""
        if isinstance(self._trainer, ZOTrainer) and self._trainer.zo_optimizer.parts.schedule.sequential:
            self._stop_comparing("the blocks of a step are measured at different weights")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write a line, unless it was written before the run was interrupted."""
        if not self.is_due(state.global_step) or self._trainer.repeats_step:
            return
        groups = _Groups()
        self._describe_weights(groups)
        if self._compares:
            self._compare(groups)
        self._trainer.metrics_log.note(state.global_step, groups.figures())

    @torch.no_grad()
    def _describe_weights(self, groups: _Groups) -> None:
        for trainable in self._trainables:
            weights = trainable.parameter.detach().to(trainable.compute_dtype)
            groups.add(trainable, "count", weights.numel())
            groups.add(trainable, "sum", _sum(weights))
            groups.add(trainable, "square", _dot(weights, weights))
            if trainable in self._start:
                moved = weights - self._start[trainable].to(weights)
                groups.add(trainable, "distance", _dot(moved, moved))

    def _compare(self, groups: _Groups) -> None:
        assert isinstance(self._trainer, ZOTrainer)
        assert self._trainer.last_loss is not None
        try:
            gradients = _gradients(self._trainer.last_loss, self._trainables)
        except (UsageError, RuntimeError) as error:  # torch has no finer class for what autograd cannot do
            self._stop_comparing(str(error).splitlines()[0])
            return
        for trainable, estimate in self._trainer.zo_optimizer.gradient_estimates():
            gradient = gradients.pop(trainable.name).to(estimate)
            groups.add(trainable, "gradient", _dot(gradient, gradient))
            groups.add(trainable, "estimate", _dot(estimate, estimate))
            groups.add(trainable, "product", _dot(estimate, gradient))
            difference = estimate.sub_(gradient)
            groups.add(trainable, "error", _dot(difference, difference))
            del estimate, gradient, difference  # before the next ones are made

    def _stop_comparing(self, reason: str) -> None:
        if self._compares:
            self._compares = False
            logger.warning("Diagnostics leave out the gradient: %s.", reason.rstrip("."))


@dataclass(slots=True)
class _Sums:
    """Sums over the tensors of a group."""

    count: float = 0.0
    sum: float = 0.0
    square: float = 0.0
    distance: float | None = None
    gradient: float | None = None
    estimate: float | None = None
    product: float | None = None
    error: float | None = None

    def figures(self) -> dict[str, float]:
        mean = self.sum / self.count
        found = {"norm": math.sqrt(self.square), "mean": mean, "variance": self.square / self.count - mean**2}
        if self.distance is not None:
            found["distance"] = math.sqrt(self.distance)
        if self.gradient is not None:
            assert self.estimate is not None
            assert self.product is not None
            assert self.error is not None
            norms = math.sqrt(self.gradient), math.sqrt(self.estimate)
            found |= {
                "gradient_norm": norms[0],
                "estimate_norm": norms[1],
                "cosine": _ratio(self.product, norms[0] * norms[1]),
                "relative_variance": _ratio(self.error, self.gradient),
            }
        return found


class _Groups:
    """The sums of all groups."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, trainable: Trainable, name: str, value: float) -> None:
        for group in (_group(trainable), "all"):
            sums = self._sums.setdefault(group, _Sums())
            setattr(sums, name, (getattr(sums, name) or 0.0) + value)

    def figures(self) -> dict[str, dict[str, float]]:
        return {group: sums.figures() for group, sums in sorted(self._sums.items())}


def _group(trainable: Trainable) -> str:
    parts = trainable.name.split(".")
    for part in ("lora_A", "lora_B"):
        if part in parts:
            return part.lower()
    return "vectors" if trainable.matrix_shape is None else "matrices"


def _gradients(loss: StepLoss, trainables: Sequence[Trainable]) -> dict[str, Tensor]:
    """Return the gradient of a step's loss by name, by backpropagation through one micro-batch after the other."""
    parameters = [trainable.parameter for trainable in trainables]
    total: list[Tensor] = []
    with eval_mode(loss.model), torch.enable_grad():
        for term in loss.terms():
            shares = torch.autograd.grad(term, parameters, materialize_grads=True)
            total = [a + b for a, b in zip(total, shares, strict=True)] if total else list(shares)
    return {trainable.name: gradient for trainable, gradient in zip(trainables, total, strict=True)}


def _sum(values: Tensor) -> float:
    return float(values.sum(dtype=torch.float64))


def _dot(first: Tensor, second: Tensor) -> float:
    return _sum(first * second)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
