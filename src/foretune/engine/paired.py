"""Several evaluations in one forward: the weights are read once, their noise is generated once for both signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from foretune.engine.base import EngineName, Perturbation
from foretune.engine.factored import Factors, can_factor, factored_linear, is_plain_linear
from foretune.engine.layerwise import Frame, Layerwise, Substitution
from foretune.engine.ownership import reads_rows, rows_read
from foretune.engine.rows import NotOneBatch, count_positions, count_rows, cut, cut_arguments, join
from foretune.engine.sharing import SharedCall, Together
from foretune.redirection import redirected
from foretune.types import LossClosure, Trainable

_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a forward may raise that is given more rows than it expects."""


class _Still(Perturbation):
    """Moves nothing: the place of an evaluation at the current weights."""

    def moves(self, trainable: Trainable) -> bool:
        return False

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        raise AssertionError("nothing moves")


_STILL = _Still()
_CLOSING = Substitution(_STILL)


class _Place(NamedTuple):
    """A module whose forward goes through the engine.

    Attributes:
        forward: The module's own.
        members: The trainable tensors it owns.
        by_rows: Whether it looks up rows of its weight.
        is_linear: Whether it is ``x W^T + b`` and nothing else.
        is_root: Whether its calls may be shared between evaluations.
    """

    module: nn.Module
    forward: Callable[..., Any]
    members: tuple[Trainable, ...]
    by_rows: bool
    is_linear: bool
    is_root: bool


class Paired(Layerwise):
    """Runs the forwards of several evaluations as one, on a batch with their rows one after another.

    The closure is called once for each perturbation, as ever. In the first of these calls a forward of a *root*, on
    arguments that are data, is made for all: on rows repeated n times, of whose results it gets its share. The later
    calls get theirs when they call the root in turn with equal arguments, without a forward. Every other module call
    (on other data, on hidden states) is made layer by layer for the perturbation in question: what the closure computes
    is always right, sharing only makes it faster.

    In a shared forward frozen modules see n times the rows. A module that owns tensors that move is

    - *factored*, if it is a linear layer whose weight moves along thin factors: ``y = x W^T + (x V) U^T + b``, by the
      true weight and each evaluation's factors. Nothing of the weight's size is written; the shift is not rounded to
      the weight's dtype;
    - run *apart* otherwise: once for each perturbation, on its rows and with its weights, both signs of a direction
      written in one pass.

    Losses are those of `Layerwise` up to rounding. Memory: n times the activations, what the roots return until it is
    used, and n perturbed copies of a layer; n is 2, or more while the batch is small (`sharing.MAX_POSITIONS`).

    Roots are found by `find_roots`; without any this is `Layerwise`.

    Attributes:
        roots: Modules whose calls may be shared.
        attempts: While roots are looked for: the modules whose calls were tried, and why not.
    """

    name: ClassVar[EngineName] = "paired"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        super().__init__(model, trainables)
        self.roots: tuple[nn.Module, ...] = ()
        self.attempts: dict[nn.Module, str | None] | None = None
        self._together: Together | None = None
        self._group: Sequence[Perturbation] | None = None  # in a shared forward: whose rows the batch holds
        self._num_rows = 0
        self._drawn: list[Perturbation] = []  # of these, the ones that are no mirror of the one before

    def _choose_held(self) -> tuple[Trainable, ...]:
        return ()  # one value at a time is not what a shared forward needs

    # ---------------------------------------------------------------- evaluations

    def losses(self, closure: LossClosure, perturbations: Sequence[Perturbation | None]) -> list[float]:
        """Return the loss at each of several perturbations, in order, as many as may from one forward."""
        found: list[float] = []
        while len(found) < len(perturbations):
            found += self._first_losses(closure, [p or _STILL for p in perturbations[len(found) :]])
        return found

    def _first_losses(self, closure: LossClosure, perturbations: Sequence[Perturbation]) -> list[float]:
        """Return the losses of those at the front that share forwards, of one at least."""
        found: list[float] = []
        self._together = together = Together(perturbations) if len(perturbations) > 1 else None
        try:
            while len(found) < (max(1, together.size) if together else 1):
                if together:
                    together.begin(len(found))
                found.append(self.loss(closure, perturbations[len(found)]))
        finally:
            self._together = None
            self._group = None  # normally it is, but Ctrl-C may come before `_make` puts it back
        return found

    # ---------------------------------------------------------------- calls

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Lead the forwards of owners and roots through the engine; outside of a session they are as they were."""
        members = dict(self.owners)
        modules = list(dict.fromkeys((*members, *self.roots)))
        linears = set(filter(is_plain_linear, modules))
        with super().attached():
            places = {
                module: _Place(
                    module=module,
                    forward=module.forward,
                    members=members.get(module, ()),
                    by_rows=reads_rows(module),
                    is_linear=module in linears,
                    is_root=module in self.roots,
                )
                for module in modules
            }
            with redirected({module: partial(self._run, place) for module, place in places.items()}):
                yield

    def _run(self, place: _Place, *args: Any, **kwargs: Any) -> Any:
        """Make a call of an owner or root."""
        if self._group is not None:
            return self._run_for_all(place, args, kwargs)
        together = self._together
        if together is None:
            return place.forward(*args, **kwargs)
        try:
            # a tensor that is open holds the value of one perturbation
            if place.is_root and not self._frames:
                return self._run_root(together, place, args, kwargs)
            return place.forward(*args, **kwargs)
        finally:
            together.has_run = True

    def _run_root(self, together: Together, place: _Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call for all evaluations, or return what was made of it; make it for this one where that is not so."""
        leaves, spec = tree_flatten((args, kwargs))
        if together.index > 0:
            call = together.kept(place.module)
            if call is not None and call.serves(leaves, spec):
                share, call.shares[together.index] = call.shares[together.index], None
                return share
            return place.forward(*args, **kwargs)
        num_rows = count_rows(leaves, floats=not together.has_run)
        if num_rows and together.choose_size(count_positions(leaves)) > 1:
            call = SharedCall(leaves, spec, together.size, num_rows)
            try:
                self._make(call, place, together.waiting[: together.size])
            except NotOneBatch:
                pass
            else:
                together.keep(place.module, call)
                return call.shares[0]
        together.keep(place.module, None)
        return place.forward(*args, **kwargs)

    def _make(self, call: SharedCall, place: _Place, group: Sequence[Perturbation]) -> None:
        """Make a shared call.

        Raises:
            NotOneBatch: a result is not made of rows; while roots are looked for, also where the module fails.
        """
        args, kwargs = tree_unflatten(call.copies, call.spec)
        way = self._way
        self._drawn = [p for index, p in enumerate(group) if not (index and p.mirrors(group[index - 1]))]
        self._prepared.clear()
        try:
            self._way = None
            self._group, self._num_rows = group, call.num_rows
            call.shares = cut(place.forward(*args, **kwargs), len(group), call.num_rows)
            self._note(place.module, None)
        except NotOneBatch as error:
            self._note(place.module, str(error))
            raise
        except _FAILURES as error:
            if self.attempts is None:
                raise
            self._note(place.module, f"it fails on a batch of {len(group)} times the rows: {error}")
            raise NotOneBatch from error
        finally:
            self._way, self._group = way, None

    def _note(self, module: nn.Module, reason: str | None) -> None:
        if self.attempts is not None:
            self.attempts[module] = reason

    # ---------------------------------------------------------------- modules in a shared forward

    def _run_for_all(self, place: _Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        group = self._group
        assert group is not None
        moving = [trainable for trainable in place.members if any(p.moves(trainable) for p in group)]
        if not moving:
            return place.forward(*args, **kwargs)
        for trainable in moving:
            self._prepare_from(trainable, self._drawn)
        if place.is_linear and isinstance(place.module, nn.Linear) and len(args) == 1 and not kwargs:
            output = self._run_factored(place.module, moving, args[0], group)
            if output is not None:
                return output
        return self._run_apart(place, moving, args, kwargs, group)

    def _run_factored(
        self, linear: nn.Linear, moving: Sequence[Trainable], x: Tensor, group: Sequence[Perturbation]
    ) -> Tensor | None:
        """Return ``x W^T + (x V) U^T + b``, each evaluation with its own U, V and b; None if W has no such factors."""
        weight, bias = linear.weight, linear.bias
        by_parameter = {id(trainable.parameter): trainable for trainable in moving}
        has_rows = x.dim() > 1 and x.shape[0] % (len(group) * self._num_rows) == 0
        if id(weight) not in by_parameter or not has_rows or not can_factor(x, weight):
            return None
        factors = _factors(by_parameter[id(weight)], group)
        if factors is None:
            return None
        biases: Sequence[Tensor | None] = [bias] * len(group)
        if bias is not None and id(bias) in by_parameter:
            biases = _versions(by_parameter[id(bias)], group, bias.new_empty(len(group), len(bias)))
        return factored_linear(x, weight, biases, factors)

    def _run_apart(
        self,
        place: _Place,
        moving: Sequence[Trainable],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        group: Sequence[Perturbation],
    ) -> Any:
        """Run a module for each evaluation on its rows, with its perturbed tensors in place."""
        leaves, spec = tree_flatten((args, kwargs))
        shares, of_rows = cut_arguments(leaves, len(group), self._num_rows)
        frame, outputs = Frame(place.module), []
        self._group = None
        self._frames.append(frame)
        try:
            versions = [self._open_for_all(frame, trainable, group, place.by_rows, args) for trainable in moving]
            for perturbation, share, *values in zip(group, shares, *versions, strict=True):
                self._way = Substitution(perturbation)
                torch.clear_autocast_cache()  # it holds casts of the value before
                for trainable, value in zip(moving, values, strict=True):
                    trainable.parameter.data = value
                own_args, own_kwargs = tree_unflatten(share, spec)
                outputs.append(place.forward(*own_args, **own_kwargs))
        finally:
            self._way = _CLOSING
            if self._frames[-1] is frame:
                self._close_frame()
            self._way, self._group = None, group
            torch.clear_autocast_cache()
        return join(outputs, self._num_rows, of_rows=of_rows)

    def _open_for_all(
        self, frame: Frame, trainable: Trainable, group: Sequence[Perturbation], by_rows: bool, args: tuple[Any, ...]
    ) -> list[Tensor]:
        """Write the value of a tensor in each evaluation, into one piece of scratch."""
        parameter = trainable.parameter
        scratch = self._scratch.push(parameter.data, sum(p.moves(trainable) for p in group))
        frame.opened.append((parameter, parameter.data))
        self._open.add(id(parameter))
        return _versions(trainable, group, scratch, rows_read(args, parameter) if by_rows else None)


def _versions(
    trainable: Trainable, group: Sequence[Perturbation], scratch: Tensor, rows: Tensor | None = None
) -> list[Tensor]:
    """Return the value of a tensor in each evaluation, both signs of a direction written in one pass.

    Args:
        scratch: Memory for them, shape (at least the number of those that move it, *shape).
        rows: Those that are written; None for all.
    """
    base, free = trainable.parameter.data, iter(scratch.unbind())
    values: list[Tensor] = []
    for index, perturbation in enumerate(group):
        if len(values) > index:  # the mirror of the one before
            continue
        if not perturbation.moves(trainable):
            values.append(base)
            continue
        values.append(next(free))
        if index + 1 < len(group) and group[index + 1].mirrors(perturbation):
            values.append(next(free))
            perturbation.write_both(trainable, out=values[-2], mirrored=values[-1], base=base, rows=rows)
        else:
            perturbation.write(trainable, out=values[-1], base=base, rows=rows)
    return values


def _factors(trainable: Trainable, group: Sequence[Perturbation]) -> list[Factors | None] | None:
    """Return the factors of a matrix's shift in each evaluation, None where it does not move; None if one has none."""
    found: list[Factors | None] = []
    for index, perturbation in enumerate(group):
        before = found[-1] if index and perturbation.mirrors(group[index - 1]) else None
        if before is not None:
            found.append((-before[0], before[1]))
        elif perturbation.moves(trainable):
            factors = perturbation.factors(trainable)
            if factors is None:
                return None
            found.append(factors)
        else:
            found.append(None)
    return found
