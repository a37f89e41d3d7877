"""What is drawn, masked and estimated in one step: pure functions of parts, states, seed and step number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from foretune import noise
from foretune.errors import IncompatibleError
from foretune.noise import Mask
from foretune.types import Combination, Draw, Member, Parts, TensorState, Trainable


class Query(NamedTuple):
    """One direction of a block: the key of its noise, and its weight in the gradient estimate."""

    key: int
    weight: float


@dataclass(frozen=True, slots=True)
class StepDirections:
    """The directions of one step. Measuring and moving both read them here, so they follow the same ones.

    Attributes:
        parts: The method.
        states: What the run remembers of each tensor; they are the step's as long as nothing has moved.
        seed: The run's seed.
        step: Index of the step.
    """

    parts: Parts
    states: Mapping[Trainable, TensorState]
    seed: int
    step: int

    @property
    def epoch(self) -> int:
        """The space's refresh epoch."""
        return self.parts.space.epoch(self.step)

    def key(self, block_index: int, query: int) -> int:
        """Return the key of the noise of a block's query."""
        return noise.mix(self.seed, self.step, block_index * self.parts.estimator.num_directions + query)

    def queries(self, block_index: int, scalars: tuple[float, ...]) -> list[Query]:
        """Return the queries of a block that were measured, with what the estimator makes of its scalars."""
        weights = self.parts.estimator.weights(scalars)
        return [Query(self.key(block_index, index), weight) for index, weight in enumerate(weights)]

    def draw(self, member: Member, key: int) -> Draw:
        """Return the direction of one tensor and query, before the member's std and mask."""
        trainable = member.trainable
        return self.parts.direction.draw(
            trainable,
            self.states[trainable],
            key=key,
            step=self.step,
            coordinate_shape=self.parts.space.coordinate_shape(trainable),
        )

    def mask(self, member: Member) -> Mask | None:
        """Return which entries of a tensor move, by its block or by the space.

        Raises:
            IncompatibleError: both have a mask.
        """
        space, state = self.parts.space, self.states[member.trainable]
        of_space = space.mask(member.trainable, state, seed=self.seed, epoch=self.epoch)
        if member.mask is not None and of_space is not None:
            names = type(space).__name__, type(self.parts.schedule).__name__
            raise IncompatibleError(f"{names[0]} cannot be combined with {names[1]}: both mask entries of a tensor.")
        return member.mask or of_space

    def estimate(self, member: Member, queries: Sequence[Query]) -> tuple[tuple[Draw, ...], Combination]:
        """Return what the direction drew for one tensor, and the gradient estimate in coordinates."""
        factor = member.scale * member.std * self.parts.space.estimate_scale(member.trainable)
        draws = tuple(self.draw(member, query.key) for query in queries)
        first, *others = (draw.vector.scaled(query.weight * factor) for draw, query in zip(draws, queries, strict=True))
        estimate = sum(others, start=first)
        return draws, estimate.masked(self.mask(member))

    def lifted_estimate(self, member: Member, queries: Sequence[Query]) -> Tensor:
        """Return the gradient estimate itself, of the tensor's shape, float32 (float64 for float64 weights)."""
        space, trainable = self.parts.space, member.trainable
        _, vector = self.estimate(member, queries)
        if vector.mask is not None:  # it may read the weights, which the zeros below are not
            shape = space.coordinate_shape(trainable)
            vector = Combination(dense=(1.0, vector.materialize(shape, trainable.parameter)))
        out = trainable.parameter.new_zeros(trainable.shape, dtype=trainable.compute_dtype)
        space.add(trainable, vector, out=out, base=out, seed=self.seed, epoch=self.epoch)
        return out
