"""How a block's losses are evaluated: the displacements an engine writes, and what estimators and updates ask."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foretune import noise
from foretune.engine import AbstractEngine, Perturbation
from foretune.noise import Mask, Noise, Purpose
from foretune.norms import norm
from foretune.step_directions import StepDirections
from foretune.types import Block, Combination, LossClosure, Member, Trainable


@dataclass(frozen=True, slots=True)
class BlockProbe:
    """Evaluates losses around the current weights along the directions of one block (`foretune.types.Probe`).

    Attributes:
        directions: Those of the step.
        engine: In a session.
        closure: The loss.
        block: The tensors that are displaced.
        index: The block's place in the step.
    """

    directions: StepDirections
    engine: AbstractEngine
    closure: LossClosure
    block: Block
    index: int

    @property
    def step(self) -> int:
        """Index of the step that is measured."""
        return self.directions.step

    def loss(self, *shifts: tuple[int, float]) -> float:
        """Return the loss at ``theta + sum coef * direction(query)`` over the pairs ``(query, coef)``."""
        return self.engine.loss(self.closure, self._shift(shifts) if shifts else None)

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        """Return the loss at each of several shifts, in order."""
        return self.engine.losses(self.closure, [self._shift(pairs) if pairs else None for pairs in shifts])

    def slope(self, query: int) -> tuple[float, float]:
        """Return the loss and its exact derivative along ``direction(query)``."""
        return self.engine.slope(self.closure, self._shift([(query, 1.0)]))

    def _shift(self, shifts: Sequence[tuple[int, float]]) -> _Shift:
        keyed = [(self.directions.key(self.index, query), coef) for query, coef in shifts]
        return _Shift(self.directions, self.block, keyed)


@dataclass(frozen=True, slots=True)
class BlockTrial:
    """Says where plain descent along the estimate of one block leads, and how far (`foretune.types.Trial`).

    Attributes:
        probe: Of the block.
        scalars: What the estimator found.
        lr: Learning rate of the step.
        clean_loss: The loss at the current weights, where the estimator has measured it.
    """

    probe: BlockProbe
    scalars: tuple[float, ...]
    lr: float
    clean_loss: float | None

    def loss(self, factor: float) -> float:
        """Return the loss at ``theta - factor * lr * lift(estimate)``."""
        probe = self.probe
        if factor == 0:
            return probe.loss() if self.clean_loss is None else self.clean_loss
        descent = _Descent(probe.directions, probe.block, probe.index, self.scalars, factor * self.lr)
        return probe.engine.loss(probe.closure, descent)

    @torch.no_grad()
    def norm(self) -> float:
        """Return the norm of the lifted estimate, over all tensors of the block; one of them is made at a time."""
        probe = self.probe
        queries = probe.directions.queries(probe.index, self.scalars)
        return math.hypot(*(norm(probe.directions.lifted_estimate(member, queries)) for member in probe.block.members))


class _Displacement(Perturbation, abc.ABC):
    """A perturbation of the tensors of one block by a vector in coordinates."""

    rounding_purpose: ClassVar[Purpose]

    def __init__(self, directions: StepDirections, block: Block, rounding_key: int) -> None:
        self._directions = directions
        self._members: dict[Trainable, Member] = {member.trainable: member for member in block.members}
        self._rounding_key = rounding_key
        self._prepared: dict[Trainable, tuple[Tensor, Tensor]] = {}

    @abc.abstractmethod
    def _vector(self, member: Member) -> Combination:
        """Return the displacement of one tensor, before its mask."""

    def moves(self, trainable: Trainable) -> bool:
        return trainable in self._members

    def prepare(self, trainables: Sequence[Trainable]) -> None:
        """Make the factors of matrices."""
        for trainable in trainables:
            factors = self._make_factors(trainable)
            if factors is not None:
                self._prepared[trainable] = factors

    def write(
        self,
        trainable: Trainable,
        *,
        out: Tensor,
        base: Tensor,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        """Write ``base + shift``, and ``base - shift`` into `mirrored` where that is given."""
        factors = self._prepared.pop(trainable, None)
        if factors is None:
            mask = self._directions.mask(self._members[trainable])
            self._add(trainable, mask, out=out, base=base, rows=rows, mirrored=mirrored)
            return
        left, right = factors
        rounding = self._rounding(trainable)
        noise.add_low_rank(out, base, left, right, rounding=rounding, rows=rows)
        if mirrored is not None:
            noise.add_low_rank(mirrored, base, -left, right, rounding=rounding, rows=rows)

    def write_both(
        self, trainable: Trainable, *, out: Tensor, mirrored: Tensor, base: Tensor, rows: Tensor | None = None
    ) -> None:
        self.write(trainable, out=out, base=base, rows=rows, mirrored=mirrored)

    def factors(self, trainable: Trainable) -> tuple[Tensor, Tensor] | None:
        prepared = self._prepared.pop(trainable, None)
        return self._make_factors(trainable) if prepared is None else prepared

    def _make_factors(self, trainable: Trainable) -> tuple[Tensor, Tensor] | None:
        directions, member = self._directions, self._members[trainable]
        space, direction = directions.parts.space, directions.parts.direction
        if not (space.lifts(trainable) or direction.draws_products) or directions.mask(member) is not None:
            return None  # before anything is drawn
        vector = self._vector(member)
        return space.matrix_factors(trainable, vector, seed=directions.seed, epoch=directions.epoch)

    def write_tangent(self, trainable: Trainable, *, out: Tensor, rows: Tensor | None = None) -> None:
        """Write the displacement itself: 0 where the mask, which may ask for the weight, does not keep an entry."""
        if rows is None:
            out.zero_()
        else:
            out.index_fill_(0, rows, 0.0)
        self._add(trainable, None, out=out, base=out, rows=rows, scale=0.0)  # no sum, should a row come twice
        mask = self._directions.mask(self._members[trainable])
        if mask is not None:
            out.masked_fill_(~noise.kept(mask, trainable.parameter), 0.0)

    def _add(
        self,
        trainable: Trainable,
        mask: Mask | None,
        *,
        out: Tensor,
        base: Tensor,
        rows: Tensor | None,
        mirrored: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        directions = self._directions
        directions.parts.space.add(
            trainable,
            self._vector(self._members[trainable]).masked(mask),
            out=out,
            base=base,
            scale=scale,
            seed=directions.seed,
            epoch=directions.epoch,
            rounding=self._rounding(trainable),
            rows=rows,
            mirrored=mirrored,
        )

    def _rounding(self, trainable: Trainable) -> Noise:
        return Noise(self._rounding_key, trainable.stream, self.rounding_purpose)


class _Shift(_Displacement):
    """The perturbation ``sum coef * std * lift(direction)``, given pairs of a direction's key and a coefficient.

    Half-precision copies are rounded with bits that depend on the step and query, not on the sign: plus and
    minus round alike, and their difference stays along the direction.
    """

    rounding_purpose = Purpose.PERTURBATION_ROUNDING

    def __init__(self, directions: StepDirections, block: Block, shifts: Sequence[tuple[int, float]]) -> None:
        self._shifts = shifts
        super().__init__(directions, block, shifts[0][0])

    def mirrors(self, other: Perturbation) -> bool:
        return isinstance(other, _Shift) and self._shifts == [(key, -coef) for key, coef in other._shifts]

    def _vector(self, member: Member) -> Combination:
        first, *others = (
            self._directions.draw(member, key).vector.scaled(coef * member.std) for key, coef in self._shifts
        )
        return sum(others, start=first)


class _Descent(_Displacement):
    """The change ``-length * lift(estimate)``, rounded as the update that makes it would be."""

    rounding_purpose = Purpose.UPDATE_ROUNDING

    def __init__(
        self, directions: StepDirections, block: Block, index: int, scalars: tuple[float, ...], length: float
    ) -> None:
        self._queries = directions.queries(index, scalars)
        self._length = length
        super().__init__(directions, block, self._queries[0].key)

    def _vector(self, member: Member) -> Combination:
        _, estimate = self._directions.estimate(member, self._queries)
        return estimate.scaled(-self._length * member.lr)

    def factors(self, trainable: Trainable) -> None:
        """Return None: what an update rounds shows in a copy alone."""
