"""What every engine promises, and how a loss is read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from foretune.engine.interrupts import hold_interrupts
from foretune.errors import UsageError
from foretune.types import LossClosure, Trainable

EngineName = Literal["auto", "layerwise", "in_place"]


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

    name: ClassVar[EngineName]

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        self.model = model
        self.trainables = tuple(trainables)
        self._interrupts: hold_interrupts | None = None
        self._grad_mode: type[torch.no_grad | torch.inference_mode] = torch.no_grad

    @contextmanager
    def session(self) -> Iterator[None]:
        """Prepare for several evaluations: dropout off for their duration (modules return to their mode).

        Ctrl-C reaches the closure but not the engine, and waits for the next evaluation or the end.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        with hold_interrupts() as self._interrupts:
            try:
                for module, training in modes:
                    if training:
                        _set_training(module, False)
                with self.attached():
                    yield
            finally:
                self._interrupts = None
                for module, training in modes:
                    if module.training != training:
                        _set_training(module, training)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hold what the engine needs on the model during a session."""
        yield

    def loss(self, closure: LossClosure, perturbation: Perturbation | None) -> float:
        """Return the loss at the perturbed weights, or at the current ones where there is no perturbation.

        To be called within a `session`.

        Raises:
            UsageError: the closure returns no scalar, or a tensor less precise than float32.
        """
        assert self._interrupts is not None, "loss() outside of a session"
        # autocast keeps casts of weights: earlier ones must not serve this evaluation, nor ours the caller
        torch.clear_autocast_cache()
        try:
            with self._grad_mode():
                if perturbation is None:
                    return self._evaluate(closure)
                return self._perturbed(lambda: self._evaluate(closure), perturbation)
        finally:
            torch.clear_autocast_cache()
            # The first evaluation is not made in inference mode: what a model creates once (position tables,
            # masks) would be inference tensors, and the model could not be trained by gradients any more.
            self._grad_mode = torch.inference_mode

    def _evaluate(self, closure: LossClosure) -> float:
        assert self._interrupts is not None
        try:
            self._interrupts.let_through()
            return read_loss(closure())
        finally:
            self._interrupts.hold_again()

    @abc.abstractmethod
    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        """Call `evaluate` once at the perturbed weights. A SIGINT is delivered inside `evaluate` only."""


def _set_training(module: nn.Module, training: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        module.training = training
    else:  # as torch does itself: Module.__setattr__ looks for parameters first, and this runs at every step
        object.__setattr__(module, "training", training)


def read_loss(loss: object) -> float:
    """Return a closure's result as a Python float (double).

    Raises:
        UsageError: not a real number or a scalar tensor, or a tensor in less than float32.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise UsageError(f"The closure must return a scalar loss, got a tensor of shape {tuple(loss.shape)}.")
        if loss.is_complex():
            raise UsageError(f"The closure must return a real loss, got a tensor of {loss.dtype}.")
        if loss.is_floating_point() and loss.element_size() < 4:
            raise UsageError(
                f"The closure returned a {loss.dtype} loss: differences of such losses are mostly rounding. "
                "Compute it in float32, for example from logits.float()."
            )
        return float(loss.item())
    try:
        # not float(loss): that would read a string
        return float(loss.__float__() if hasattr(loss, "__float__") else loss.__index__())  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        raise UsageError(
            f"The closure must return a scalar loss (a tensor or a number), got {type(loss).__name__}."
        ) from None
