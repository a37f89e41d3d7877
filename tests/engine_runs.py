"""A perturbation made of noise primitives alone, the loss of a copy that was moved by it, and Ctrl-C at any moment."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from foretune import noise
from foretune.engine.base import AbstractEngine, Perturbation
from foretune.noise import Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.types import Trainable

PLUS = ((101, 0.03),)
MINUS = ((101, -0.03),)
SEVERAL = ((101, 0.03), (102, -0.01), (103, 0.02))


@dataclass
class Shift(Perturbation):
    """theta + sum_i c_i z(k_i), of all tensors or only of some.

    Attributes:
        terms: Pairs of a noise key and a coefficient.
        only: Names of the tensors that move; None for all.
        written: Every write so far: name and the rows.
    """

    terms: tuple[tuple[int, float], ...]
    only: Collection[str] | None = None

    def __post_init__(self) -> None:
        self.written: list[tuple[str, list[int] | None]] = []

    def moves(self, trainable: Trainable) -> bool:
        return self.only is None or trainable.name in self.only

    def write(
        self,
        trainable: Trainable,
        *,
        out: Tensor,
        base: Tensor,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        self.written.append((trainable.name, None if rows is None else rows.tolist()))
        noise.add(
            out,
            base,
            noise=[(coef, Noise(key, trainable.stream, Purpose.DIRECTION)) for key, coef in self.terms],
            rounding=Noise(self.terms[0][0], trainable.stream, Purpose.PERTURBATION_ROUNDING),
            rows=rows,
            mirrored=mirrored,
        )

    def mirrors(self, other: Perturbation) -> bool:
        return isinstance(other, Shift) and self.terms == tuple((key, -coef) for key, coef in other.terms)

    write_both = write


def measure(engine: AbstractEngine, closure: Callable[[], Tensor | float], shift: Shift | None) -> float:
    """One evaluation in a session of its own."""
    with engine.session():
        return engine.loss(closure, shift)


@torch.no_grad()
def loss_of_moved_copy(
    model: nn.Module, closure_of: Callable[[nn.Module], Callable[[], Tensor]], shift: Shift | None
) -> float:
    """The oracle: copy the model, move each of its distinct trainable tensors, evaluate."""
    moved = copy.deepcopy(model).eval()
    if shift is not None:
        for trainable in collect_trainables(moved):
            if shift.moves(trainable):
                data = trainable.parameter.data
                shift.write(trainable, out=data, base=data.clone())
    return float(closure_of(moved)())


def bits(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every parameter and buffer."""
    return {
        name: tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }


def num_hooks(model: nn.Module) -> int:
    """Forward hooks of all modules."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def interrupted_by_a_timer(
    engine: AbstractEngine, check: Callable[[], None], *, count: int, longest: float
) -> Iterator[None]:
    """Call `check` in session after session until Ctrl-C comes at a random moment; yield after each of `count` times.

    Args:
        engine: Whose sessions they are.
        check: Measures something, several times in a session, and asserts that it is as ever.
        count: Interrupts.
        longest: Seconds up to an interrupt at most.
    """
    for delay in torch.rand(count, generator=torch.Generator().manual_seed(0)) * longest + 1e-5:
        on_ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
        on_alarm = signal.signal(signal.SIGALRM, lambda *args: signal.raise_signal(signal.SIGINT))
        try:
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, float(delay))
                while True:
                    with engine.session():
                        for _ in range(20):
                            check()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, on_alarm)
            signal.signal(signal.SIGINT, on_ctrl_c)
        yield
