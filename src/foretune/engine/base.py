"""What every engine promises, and how a loss is read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from foretune.errors import UsageError
from foretune.types import LossClosure, Trainable


class Perturbation(Protocol):
    """Writes perturbed values of the tensors that move."""

    def moves(self, trainable: Trainable) -> bool:
        """Whether this tensor differs from its current value."""
        ...

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        """Write ``base + shift`` into `out` (only `rows` of it where given); both have the tensor's shape."""
        ...


class AbstractEngine(abc.ABC):
    """Evaluates a closure with some tensors replaced, and puts the true weights back in every case.

    Whatever happens inside the closure (an exception, Ctrl-C), after `loss` returns or raises every parameter
    holds the bits it held before.
    """

    name: ClassVar[str]

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        self.model = model
        self.trainables = tuple(trainables)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Prepare for several evaluations: dropout off for their duration (modules return to their mode)."""
        training = [module for module in self.model.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with self.attached():
                yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hold what the engine needs on the model during a session."""
        yield

    def loss(self, closure: LossClosure, perturbation: Perturbation | None) -> float:
        """Return the loss at the perturbed weights, or at the current ones where there is no perturbation.

        Raises:
            UsageError: the closure returns no scalar, or a tensor less precise than float32.
        """
        # a cast weight that autocast kept from the last evaluation would be used again in this one
        torch.clear_autocast_cache()
        with torch.inference_mode():
            if perturbation is None:
                return read_loss(closure())
            return self._perturbed(lambda: read_loss(closure()), perturbation)

    @abc.abstractmethod
    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        """Call `evaluate` once at the perturbed weights."""


def read_loss(loss: Tensor | float) -> float:
    """Return a closure's result as a Python float (double).

    Raises:
        UsageError: not a number or a scalar tensor, or a tensor in less than float32.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise UsageError(f"The closure must return a scalar loss, got a tensor of shape {tuple(loss.shape)}.")
        if loss.dtype in (torch.float16, torch.bfloat16):
            raise UsageError(
                f"The closure returned a {loss.dtype} loss: differences of {loss.dtype} losses are mostly rounding. "
                "Compute it in float32, for example from logits.float()."
            )
        return float(loss.item())
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise UsageError(
            f"The closure must return a scalar loss (a tensor or a number), got {type(loss).__name__}."
        ) from None
