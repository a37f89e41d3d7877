"""What every engine promises, and how a loss is read."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from foretune.engine.forward_mode import forward_mode, read_tangent
from foretune.engine.interrupts import hold_interrupts
from foretune.errors import UsageError
from foretune.types import LossClosure, Trainable

EngineName = Literal["auto", "layerwise", "in_place", "paired"]

Measured = TypeVar("Measured")
"""What is read off the closure's result: a loss, or a loss and its slope."""


class Perturbation(Protocol):
    """Writes perturbed values of the tensors that move.

    What is not abstract saves an engine work, and may be left as it is.
    """

    def moves(self, trainable: Trainable) -> bool:
        """Whether this tensor differs from its current value."""
        ...

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        """Write ``base + shift`` into `out` (only `rows` of it where given); both have the tensor's shape."""
        ...

    def prepare(self, trainables: Sequence[Trainable]) -> None:
        """Make what `write` or `factors` of these will need, of small size; they will be asked for soon, or never."""
        return

    def mirrors(self, other: Perturbation) -> bool:
        """Whether all shifts are those of `other` with the sign changed."""
        return False

    def write_both(
        self, trainable: Trainable, *, out: Tensor, mirrored: Tensor, base: Tensor, rows: Tensor | None = None
    ) -> None:
        """`write` the shift into `out` and that of the opposite sign into `mirrored`; asked of those that `mirrors`."""
        raise NotImplementedError

    def factors(self, trainable: Trainable) -> tuple[Tensor, Tensor] | None:
        """Return left (m, r) and right (n, r) if the shift of an m x n tensor is ``left right^T``, unrounded."""
        return None


class Tangent(Protocol):
    """Writes the velocity of the tensors that move, along which a loss is differentiated."""

    def moves(self, trainable: Trainable) -> bool:
        """Whether this tensor's velocity is anything else than zero."""
        ...

    def write_tangent(self, trainable: Trainable, *, out: Tensor, rows: Tensor | None = None) -> None:
        """Write the velocity into `out` (only `rows` of it where given), which has the tensor's shape and dtype."""
        ...


class AbstractEngine(abc.ABC):
    """Evaluates a closure with some tensors replaced, and puts the true weights back in every case.

    Whatever happens inside the closure (an exception, Ctrl-C), after `loss` or `slope` returns or raises every
    parameter holds the bits it held before, and no tangent.
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
        try:
            with hold_interrupts() as self._interrupts, eval_mode(self.model), self.attached():
                yield
        finally:
            self._interrupts = None

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
        with self._fresh_casts():
            try:
                with self._grad_mode():
                    if perturbation is None:
                        return self._evaluate(closure, read_loss)
                    return self._perturbed(lambda: self._evaluate(closure, read_loss), perturbation)
            finally:
                # The first evaluation is not made in inference mode: what a model creates once (position tables,
                # masks) would be inference tensors, and the model could not be trained by gradients any more.
                self._grad_mode = torch.inference_mode

    def losses(self, closure: LossClosure, perturbations: Sequence[Perturbation | None]) -> list[float]:
        """Return the `loss` at each of several perturbations, in order; the closure is called once for each."""
        return [self.loss(closure, perturbation) for perturbation in perturbations]

    def slope(self, closure: LossClosure, tangent: Tangent) -> tuple[float, float]:
        """Return the loss at the current weights and its derivative along the tangent, by one forward-mode pass.

        To be called within a `session`. A weight that is read through an alias made beforehand (`.data`, `.detach()`)
        is a constant, as it is for a backward pass.

        Raises:
            UsageError: the closure returns no scalar, a tensor less precise than float32, a number or a tensor that
                does not depend differentiably on the tensors that move; or it calls an operator without a
                forward-mode rule.
        """
        with self._fresh_casts(), forward_mode():
            return self._along(lambda: self._evaluate(closure, _read_loss_and_slope), tangent)

    @contextmanager
    def _fresh_casts(self) -> Iterator[None]:
        """Autocast keeps casts of weights: earlier ones must not serve this evaluation, nor ours the caller."""
        assert self._interrupts is not None, "nothing is measured outside of a session"
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            torch.clear_autocast_cache()

    def _evaluate(self, closure: LossClosure, read: Callable[[object], Measured]) -> Measured:
        assert self._interrupts is not None
        try:
            self._interrupts.let_through()
            return read(closure())
        finally:
            self._interrupts.hold_again()

    @abc.abstractmethod
    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        """Call `evaluate` once at the perturbed weights. A SIGINT is delivered inside `evaluate` only."""

    @abc.abstractmethod
    def _along(self, evaluate: Callable[[], tuple[float, float]], tangent: Tangent) -> tuple[float, float]:
        """Call `evaluate` once with tangents on the weights, which leaving `forward_mode` removes at the latest."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules into eval mode, and on leaving each into the mode it was in."""
    modes = [(module, module.training) for module in _all_modules(model)]
    try:
        for module, training in modes:
            if training:
                _set_training(module, False)
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                _set_training(module, training)


def _all_modules(model: nn.Module) -> list[nn.Module]:
    """Return a module and all that it contains, each once.

    `Module.modules` also forms a name for each, which takes a few percent of a small step: this is asked at every one.
    """
    found, known = [model], {model}
    for module in found:
        for child in module._modules.values():
            if child is not None and child not in known:
                known.add(child)
                found.append(child)
    return found


def _set_training(module: nn.Module, training: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        module.training = training
    else:  # as torch does itself: Module.__setattr__ looks for parameters first, and this runs at every step
        object.__setattr__(module, "training", training)


def _read_loss_and_slope(loss: object) -> tuple[float, float]:
    return read_loss(loss), read_tangent(loss)


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
