"""The default engine: each layer reads a perturbed copy, or moves along factors; the weights are never modified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from foretune.engine.base import AbstractEngine, EngineName, Measured, Perturbation, Tangent
from foretune.engine.factored import (
    Factors,
    can_factor,
    factored_linear,
    factors_pay,
    is_plain_linear,
    is_worth_factors,
)
from foretune.engine.forward_mode import attach_tangent, drop_tangent
from foretune.engine.held import choose_held
from foretune.engine.ownership import find_owners, reads_rows, rows_read
from foretune.engine.scratch import ScratchStack
from foretune.redirection import redirected
from foretune.types import Trainable

NUM_AHEAD = 8
"""Tensors that are prepared together: between the layers of a forward the code that does it has left the caches."""


@dataclass(slots=True)
class Frame:
    """A module that is running.

    Attributes:
        module: It.
        opened: The parameters that were substituted for it, with their true data.
        factors: Of the shift of its weight, if it is a linear layer that runs by them.
    """

    module: nn.Module
    opened: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    factors: Factors | None = None


class Substitution:
    """A perturbed copy stands in for the true data."""

    def __init__(self, perturbation: Perturbation) -> None:
        self._perturbation = perturbation
        self.moves = perturbation.moves
        self.prepare = perturbation.prepare
        self.factors = perturbation.factors

    def open(self, trainable: Trainable, out: Tensor, rows: Tensor | None) -> None:
        """Write the copy to `out` and put it in place."""
        self._perturbation.write(trainable, out=out, base=trainable.parameter.data, rows=rows)
        trainable.parameter.data = out

    def close(self, parameter: nn.Parameter, true_data: Tensor) -> None:
        """Put the true data back."""
        parameter.data = true_data


class _Differentiation:
    """The parameter carries a tangent beside its true data."""

    def __init__(self, tangent: Tangent) -> None:
        self._tangent = tangent
        self.moves = tangent.moves

    def prepare(self, trainables: Sequence[Trainable]) -> None:
        pass

    def factors(self, trainable: Trainable) -> Factors | None:
        return None

    def open(self, trainable: Trainable, out: Tensor, rows: Tensor | None) -> None:
        self._tangent.write_tangent(trainable, out=out, rows=rows)
        attach_tangent(trainable.parameter, out)

    def close(self, parameter: nn.Parameter, true_data: Tensor) -> None:
        drop_tangent(parameter)


class _Preparing(Protocol):
    """What `Layerwise._prepare_from` asks of a way or a perturbation."""

    def moves(self, trainable: Trainable) -> bool: ...

    def prepare(self, trainables: Sequence[Trainable]) -> None: ...


class _Place(NamedTuple):
    """What is done when a module runs.

    Attributes:
        members: The trainable tensors it owns, but for those that are held.
        by_rows: Whether it looks up rows of its weight.
        weight: Its weight, if it is a plain linear layer that may run by factors.
    """

    members: tuple[Trainable, ...]
    by_rows: bool
    weight: Trainable | None


class Layerwise(AbstractEngine):
    """Swaps a perturbed copy in just before a module runs and the true weight back after it.

    For a slope it gives the parameter a tangent in the same manner.

    - A tensor that is *held* (`choose_held`: the smallest) is swapped once for the whole evaluation.
    - A linear layer whose weight moves along thin factors computes ``y = x W^T + (x V) U^T + b`` by the true weight
      where that is less work (`factors_pay`): no copy is made, and the shift is not rounded to the weight's dtype.
    - An embedding perturbs only the rows that are looked up.
    - A tensor that is already open in an enclosing module is left as it is.

    Memory: the tensors of one module at a time (and of the modules it is nested in), twice for a slope, and those that
    are held.

    Attributes:
        held: Tensors that are swapped for a whole evaluation.
        owners: Modules with the other tensors that they own.
    """

    name: ClassVar[EngineName] = "layerwise"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        super().__init__(model, trainables)
        self.held = self._choose_held()
        held = set(self.held)
        self.owners = find_owners(model, [trainable for trainable in trainables if trainable not in held])
        self._order = list(dict.fromkeys(trainable for _, members in self.owners for trainable in members))
        self._positions = {trainable: position for position, trainable in enumerate(self._order)}
        self._scratch = ScratchStack()
        self._held_copies: dict[int, Tensor] = {}
        self._way: Substitution | _Differentiation | None = None
        self._held_data: list[tuple[nn.Parameter, Tensor]] = []
        self._frames: list[Frame] = []
        self._open: set[int] = set()
        self._prepared: set[Trainable] = set()

    def _choose_held(self) -> tuple[Trainable, ...]:
        return choose_held(self.model, self.trainables)

    @property
    def scratch_bytes(self) -> int:
        """Memory that the engine keeps for perturbed copies."""
        return self._scratch.num_bytes + sum(copy.nbytes for copy in self._held_copies.values())

    @property
    def scratch_buffers(self) -> list[Tensor]:
        """The memory of perturbed copies: a buffer a device, and the copies that are held."""
        return [*self._scratch.buffers, *self._held_copies.values()]

    def open_parameters(self) -> list[nn.Parameter]:
        """The parameters that are substituted right now for modules that are running."""
        return [parameter for frame in self._frames for parameter, _ in frame.opened]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the owners; the model carries none outside of a session."""
        handles, linears = [], {}
        try:
            for module, members in self.owners:
                weight = None
                if is_plain_linear(module) and is_worth_factors(module.weight):
                    weight = next((t for t in members if t.parameter is module.weight), None)
                    linears[module] = partial(self._run_linear, module, module.forward)
                place = _Place(members, reads_rows(module), weight)
                handles.append(module.register_forward_pre_hook(partial(self._before, place=place)))
                handles.append(module.register_forward_hook(self._after, always_call=True))
            with redirected(linears):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        return self._opening(evaluate, Substitution(perturbation))

    def _along(self, evaluate: Callable[[], tuple[float, float]], tangent: Tangent) -> tuple[float, float]:
        return self._opening(evaluate, _Differentiation(tangent))

    def _opening(self, evaluate: Callable[[], Measured], way: Substitution | _Differentiation) -> Measured:
        """Call `evaluate`, in which every module finds its own tensors opened."""
        self._way = way
        try:
            self._open_held(way)
            return evaluate()
        finally:
            self._way = None
            # of frames there are normally none any more, but Ctrl-C does not reach the hooks that close
            opened = [*self._held_data, *(pair for frame in self._frames for pair in frame.opened)]
            for parameter, true_data in reversed(opened):
                way.close(parameter, true_data)
            self._held_data.clear()
            self._frames.clear()
            self._open.clear()
            self._prepared.clear()
            self._scratch.clear()

    def _open_held(self, way: Substitution | _Differentiation) -> None:
        for index, trainable in enumerate(self.held):
            if way.moves(trainable):
                true_data = trainable.parameter.data
                copy = self._held_copy(index, true_data)
                self._held_data.append((trainable.parameter, true_data))
                way.open(trainable, copy, None)

    def _held_copy(self, index: int, like: Tensor) -> Tensor:
        """Return memory for the copy of a held tensor, the same as ever while the model stays where it is."""
        copy = self._held_copies.get(index)
        if copy is None or copy.dtype != like.dtype or copy.device != like.device:
            with torch.inference_mode(False):
                copy = self._held_copies[index] = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        return copy

    def _before(self, module: nn.Module, args: tuple[Any, ...], *, place: _Place) -> None:
        """Open the tensors of a module that is about to run."""
        way = self._way
        if way is None:
            return
        frame = Frame(module)
        self._frames.append(frame)
        for trainable in place.members:
            parameter = trainable.parameter
            if id(parameter) in self._open or not way.moves(trainable):
                continue
            self._prepare_from(trainable, [way])
            if trainable is place.weight and len(args) == 1 and can_factor(args[0], parameter):
                frame.factors = way.factors(trainable) if factors_pay(args[0], parameter) else None
                if frame.factors is not None:
                    continue
            true_data = parameter.data
            rows = rows_read(args, parameter) if place.by_rows else None
            out = self._scratch.push(true_data)
            # recorded before anything changes, so that an interrupt anywhere from here on can be cleaned up
            frame.opened.append((parameter, true_data))
            self._open.add(id(parameter))
            way.open(trainable, out, rows)

    def _prepare_from(self, trainable: Trainable, ways: Sequence[_Preparing]) -> None:
        """Let perturbations prepare this tensor, unless they have, and those that are likely to follow it."""
        if trainable not in self._prepared:
            start = self._positions[trainable]
            ahead = [t for t in self._order[start : start + NUM_AHEAD] if t not in self._prepared]
            self._prepared.update(ahead)
            for way in ways:
                way.prepare([t for t in ahead if way.moves(t)])

    def _run_linear(self, linear: nn.Linear, forward: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Run a linear layer, by factors if its frame has some."""
        frame = self._frames[-1] if self._frames else None
        if frame is None or frame.module is not linear or frame.factors is None:
            return forward(*args, **kwargs)
        (x,) = args
        return factored_linear(x, linear.weight, [linear.bias], [frame.factors])

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Close what `_before` opened, also if the module raised."""
        # a pre-hook that raised before ours ran leaves this module without a frame, on top of its caller's; and what
        # Ctrl-C leaves open between evaluations of a shared forward is closed by `_opening`
        if self._way is None or not self._frames or self._frames[-1].module is not module:
            return
        self._close_frame()

    def _close_frame(self) -> None:
        """Close what was opened for the module that ran last."""
        assert self._way is not None
        opened = self._frames[-1].opened
        while opened:
            parameter, true_data = opened[-1]
            self._way.close(parameter, true_data)
            self._open.discard(id(parameter))
            self._scratch.pop(true_data.device)
            opened.pop()
        self._frames.pop()
