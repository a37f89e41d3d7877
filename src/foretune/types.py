"""The shared words: trainable tensors, combinations of directions, and the five abstract parts of a method.

A method is a composition: ``Space x Direction x Estimator x Update x Schedule``. One step of any method is

    1. the schedule says which tensors move now (blocks), with which learning-rate and scale factors;
    2. the direction draws, per tensor and query, a vector ``v`` in the coordinates of the space;
    3. the estimator evaluates the loss at ``theta + sum_i c_i * lift(v_i)`` and returns a few scalars;
    4. the scalars go to the journal (from here on the step can be replayed without data);
    5. the update turns scalars and directions into a change in coordinates, which the space lifts and adds.

So MeZO is ``Identity x Gaussian x TwoSided x SGD x Whole``, LOZO is ``LowRank x Gaussian x TwoSided x SGD x
Whole``, and LOZO-M replaces SGD by Momentum, whose state then has the size of the coordinates.

Shape letters: m rows, n columns, r rank, q directions. Parts are immutable: state lives in `TensorState`.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from foretune import noise
from foretune.noise import LowRankNoise, Mask, Noise, Window

LossClosure = Callable[[], Tensor | float]
"""Evaluates the loss at the current weights, on the same data every time it is called within a step."""


@dataclass(frozen=True, eq=False, slots=True)
class Trainable:
    """One trainable tensor, as every part sees it. Compared by identity.

    Attributes:
        name: Canonical name (wrappers' prefixes stripped; of tied aliases the smallest).
        parameter: The tensor itself. Its `.data` may be swapped while a loss is evaluated.
        stream: 32-bit noise stream, a hash of `name`.
        matrix_shape: ``(m, n)`` if low-rank methods treat it as a matrix (tensors of 3 and more dimensions are
            viewed as ``(shape[0], rest)``), None for a vector (at most one dimension longer than 1).
        decays: Whether weight decay applies (at least 2 dimensions, no bias, no norm weight).
        num_views: How many matrices of one shape lie side by side in this one, as ``num_views`` blocks of
            columns. Low-rank methods see each of them apart: a prefix tensor holds a key and a value per layer.
        is_adapter: Whether the tensor belongs to an adapter (LoRA, a prefix, a prompt), not to the model proper.
    """

    name: str
    parameter: nn.Parameter
    stream: int
    matrix_shape: tuple[int, int] | None
    decays: bool
    num_views: int = 1
    is_adapter: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor itself."""
        return tuple(self.parameter.shape)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of coordinates and optimizer state: float64 for float64 weights, otherwise float32."""
        return torch.float64 if self.parameter.dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class Combination:
    """A vector in the coordinates of a space, kept as its recipe: ``sum_i c_i z_i + sum_j c_j A_j B_j^T + c dense``.

    Attributes:
        noise: Pairs of a coefficient and the address of a noise tensor (regenerated where it is needed).
        dense: At most one pair of a coefficient and a stored tensor of the coordinates' shape.
        products: Pairs of a coefficient and a low-rank noise matrix, for coordinates that are matrices.
        mask: Entries that are not kept are zero.
    """

    noise: tuple[tuple[float, Noise], ...] = ()
    dense: tuple[float, Tensor] | None = None
    products: tuple[tuple[float, LowRankNoise], ...] = ()
    mask: Mask | None = None

    def scaled(self, factor: float) -> Combination:
        """Return ``factor * self``; coefficients multiply in float64."""
        return Combination(
            noise=tuple([(coef * factor, address) for coef, address in self.noise]),
            dense=None if self.dense is None else (self.dense[0] * factor, self.dense[1]),
            products=tuple([(coef * factor, product) for coef, product in self.products]),
            mask=self.mask,
        )

    def masked(self, mask: Mask | None) -> Combination:
        """Return the vector with this mask in place of its own."""
        return self if mask is self.mask else Combination(self.noise, self.dense, self.products, mask)

    def __add__(self, other: Combination) -> Combination:
        if self.dense is not None and other.dense is not None:
            (a, x), (b, y) = self.dense, other.dense
            dense = (a + b, x) if x is y else (1.0, x.mul(a).add_(y, alpha=b))
        else:
            dense = self.dense or other.dense
        assert self.mask == other.mask or self.is_zero or other.is_zero, "a sum of differently masked vectors"
        return Combination(self.noise + other.noise, dense, self.products + other.products, self.mask or other.mask)

    @property
    def is_zero(self) -> bool:
        """Whether every coefficient is exactly zero (then nothing may be written)."""
        terms = (*self.noise, *self.products, *(() if self.dense is None else (self.dense,)))
        return all(coef == 0.0 for coef, _ in terms)

    @property
    def is_product(self) -> bool:
        """Whether there are low-rank terms and nothing else."""
        return bool(self.products) and not self.noise and self.dense is None and self.mask is None

    def add_to(
        self,
        out: Tensor,
        base: Tensor,
        *,
        scale: float = 1.0,
        rounding: Noise | None = None,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        """Write ``out = scale * base + self`` (`noise.add`); entries that the mask does not keep are base's own.

        Where `mirrored` is given it gets ``scale * base - self``. Low-rank terms make one product; beside other terms
        it goes through one temporary of the tensor's size.
        """
        if self.is_product:
            left, right = noise.low_rank_factors(self.products, base)
            if mirrored is not None:  # first: `out` may be `base`
                noise.add_low_rank(mirrored, base, -left, right, scale=scale, rounding=rounding, rows=rows)
            noise.add_low_rank(out, base, left, right, scale=scale, rounding=rounding, rows=rows)
            return
        terms, dense = self.noise, self.dense
        if self.products:
            terms, dense = (), (1.0, self.masked(None).materialize(base.shape, base))
        noise.add(
            *(out, base),
            scale=scale,
            noise=terms,
            dense=dense,
            rounding=rounding,
            rows=rows,
            mask=self.mask,
            mirrored=mirrored,
        )

    def accumulate_into(self, average: Tensor, *, decay: float, weight: Tensor) -> None:
        """Write ``average = decay * average + self``: entries that the mask does not keep decay as well.

        Args:
            average: A state tensor of the coordinates' shape.
            decay: Factor of what is there.
            weight: The tensor this is state of, for masks that read it.
        """
        if self.mask is None:
            self.add_to(average, average, scale=decay)
        else:
            noise.add(average, average, scale=decay, dense=(1.0, self.materialize(average.shape, weight)))

    def materialize(self, shape: Sequence[int], weight: Tensor) -> Tensor:
        """Return the vector itself, of this shape, float32 (float64 for float64 weights), on the weight's device.

        Args:
            shape: Of the coordinates.
            weight: The tensor they are coordinates of; masks of magnitudes read it.
        """
        compute = torch.float64 if weight.dtype == torch.float64 else torch.float32
        vector = torch.zeros(tuple(shape), dtype=compute, device=weight.device)
        noise.add(vector, vector, noise=self.noise, dense=self.dense)
        if self.products:
            left, right = noise.low_rank_factors(self.products, vector)
            noise.add_low_rank(vector, vector, left, right)
        if self.mask is not None:
            vector.mul_(noise.kept(self.mask, weight))
        return vector

    def materialize_part(self, start: int, stop: int, shape: Sequence[int], weight: Tensor) -> Tensor:
        """Return elements `start` to `stop` - 1 of `materialize` in row-major order, shape (stop - start,), its dtype.

        Noise and stored tensors are read there alone; low-rank terms and masks make the whole vector first.
        """
        if self.products or self.mask is not None:
            return self.materialize(shape, weight).view(-1)[start:stop]
        compute = torch.float64 if weight.dtype == torch.float64 else torch.float32
        part = torch.zeros(1, stop - start, dtype=compute, device=weight.device)
        dense = self.dense and (self.dense[0], self.dense[1].reshape(1, -1)[:, start:stop])
        noise.add(part, part, noise=self.noise, dense=dense, window=Window(0, start, math.prod(shape)))
        return part.view(-1)


@dataclass(slots=True)
class TensorState:
    """What a run remembers about one tensor between steps.

    Attributes:
        tensors: Named state of the direction and the update, in coordinates (size and dtype of these).
        num_updates: How many times this tensor has been updated (not the global step).
        epoch: The space's refresh epoch in whose basis `tensors` are expressed; -1 before the first update.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    num_updates: int = 0
    epoch: int = -1


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor's part in a block: factors on the direction, on the learning rate and on the gradient estimate.

    `std` scales the direction where it is measured and where the update follows it, so it acts twice on the
    expected update. `scale` is for the estimate alone; `lr` acts on weight decay too. Entries that `mask` does not
    keep neither are perturbed nor move.
    """

    trainable: Trainable
    std: float = 1.0
    lr: float = 1.0
    scale: float = 1.0
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors that are perturbed and updated together."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """What a direction says about one tensor and query.

    Attributes:
        vector: The direction, in coordinates: it is measured along, and the update follows it.
        parts: Named ingredients that an update rule needs apart (AdaMU's fresh and remembered share, say).
    """

    vector: Combination
    parts: Mapping[str, Combination] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the losses of one block said.

    Attributes:
        scalars: float64 numbers, all that the update (and so the journal) needs; for two-sided estimates the
            projected gradient of each direction, loss per unit of z.
        loss: The training loss that is logged, in the closure's own unit.
    """

    scalars: tuple[float, ...]
    loss: float


class Probe(Protocol):
    """Evaluates the loss away from the current weights; weights are the current ones again on return."""

    @property
    def step(self) -> int:
        """Index of the step that is measured."""
        ...

    def loss(self, *shifts: tuple[int, float]) -> float:
        """Return the loss at ``theta + sum coef * direction(query)`` over the pairs ``(query, coef)``."""
        ...

    def losses(self, shifts: Sequence[Sequence[tuple[int, float]]]) -> list[float]:
        """Return the loss at each of several shifts, in order; an engine may evaluate them together."""
        ...

    def slope(self, query: int) -> tuple[float, float]:
        """Return the loss and its exact derivative along ``direction(query)``, by one forward-mode pass.

        Raises:
            UsageError: the closure returns a number, or a tensor that forward-mode differentiation did not follow.
        """
        ...


class Trial(Protocol):
    """What may be asked about the step of a block before it is decided, on the data of the step."""

    def loss(self, factor: float) -> float:
        """Return the loss at ``theta - factor * lr * lift(estimate)``."""
        ...

    def norm(self) -> float:
        """Return the norm of ``lift(estimate)`` over all tensors of the block; they are made one at a time."""
        ...


@dataclass(frozen=True, slots=True)
class UpdateContext:
    """Everything an update rule may look at for one tensor.

    Attributes:
        member: The tensor and its factors (`member.lr` is already part of `lr`).
        lr: Learning rate of this step for this tensor.
        estimate: The gradient estimate in coordinates, ``sum_k w_k * scale * std * v_k``, such that the
            expectation of its lift is ``scale * std^2`` times the gradient.
        state: This tensor's state; the rule changes `state.tensors` in place.
        coordinate_shape: Shape of coordinates and of each state tensor.
        draws: What the direction drew, one per query, before `member.std` and the scalars.
        scalars: The estimator's scalars of this block.
        decision: What `AbstractUpdate.decide` returned for this block.
    """

    member: Member
    lr: float
    estimate: Combination
    state: TensorState
    coordinate_shape: tuple[int, ...]
    draws: tuple[Draw, ...]
    scalars: tuple[float, ...]
    decision: tuple[float, ...] = ()

    def gradient(self) -> Tensor:
        """Return the estimate itself, in coordinates: a temporary of this one tensor's coordinates."""
        return self.estimate.materialize(self.coordinate_shape, self.member.trainable.parameter)


@dataclass(frozen=True, slots=True)
class Change:
    """The new tensor: ``scale * theta + lift(step)``."""

    scale: float
    step: Combination


class AbstractPart(abc.ABC):  # noqa: B024
    """What all five kinds of parts share."""

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:  # noqa: B027
        """Refuse, by name, other parts or tensors that this part cannot work with.

        Raises:
            IncompatibleError: the message says which part, which tensor or other part, and why.
        """


class AbstractSpace(AbstractPart):
    """Along which coordinates may a tensor move."""

    masks: ClassVar[bool] = False
    """Whether `mask` leaves entries out."""
    state_names: ClassVar[tuple[str, ...]] = ()
    """Names of what the space itself keeps in the states: facts about an epoch, never transported, on the CPU."""

    @abc.abstractmethod
    def coordinate_shape(self, trainable: Trainable) -> tuple[int, ...]:
        """Shape of a coordinate vector of this tensor."""

    @abc.abstractmethod
    def epoch(self, step: int) -> int:
        """Index of the basis in force at `step`; a new value means a refreshed basis."""

    @abc.abstractmethod
    def estimate_scale(self, trainable: Trainable) -> float:
        """Factor that makes ``E[lift(estimate)]`` the gradient, for coordinates of unit variance."""

    @abc.abstractmethod
    def add(
        self,
        trainable: Trainable,
        vector: Combination,
        *,
        out: Tensor,
        base: Tensor,
        seed: int,
        epoch: int,
        scale: float = 1.0,
        rounding: Noise | None = None,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        """Write ``out = scale * base + lift(vector)``, of the tensor's shape; only `rows` of it where given.

        Where `mirrored` is given it gets ``scale * base - lift(vector)``, for one generation of all noise. `out` may be
        `base`, `mirrored` may not. Half-precision results are rounded stochastically with `rounding`. A mask of the
        vector is one of the tensor's entries; spaces that lift may not be given one.
        """

    def matrix_factors(
        self, trainable: Trainable, vector: Combination, *, seed: int, epoch: int
    ) -> tuple[Tensor, Tensor] | None:
        """Return left (m, r) and right (n, r) with ``lift(vector) = left right^T``, m x n the tensor itself.

        None where the lift of this tensor is made in another way.
        """
        is_matrix = trainable.matrix_shape is not None and trainable.shape == trainable.matrix_shape
        return noise.low_rank_factors(vector.products, trainable.parameter) if is_matrix and vector.is_product else None

    @abc.abstractmethod
    def transport(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Express a stored coordinate tensor in the basis of another epoch."""

    def lifts(self, trainable: Trainable) -> bool:
        """Whether the coordinates of this tensor are anything else than the tensor's own entries."""
        return self.coordinate_shape(trainable) != trainable.shape

    def begin_epoch(self, states: Mapping[Trainable, TensorState], *, seed: int, epoch: int) -> None:
        """Look at the weights when a new epoch begins, before its first step is measured or replayed.

        What the epoch needs of them goes into the states, as tensors; most spaces need nothing.
        """

    def mask(self, trainable: Trainable, state: TensorState, *, seed: int, epoch: int) -> Mask | None:
        """Which entries move in this epoch, among the coordinates; None for all of them."""
        return None

    def num_state_elements(self, trainable: Trainable) -> int:
        """Numbers of the compute dtype that the space keeps between steps for this tensor."""
        return 0

    def num_basis_elements(self, trainable: Trainable) -> int:
        """Numbers of the compute dtype in bases kept for this tensor; they can be made again, and so are no state."""
        return 0


class AbstractDirection(AbstractPart):
    """How a coordinate vector is drawn."""

    part_names: ClassVar[tuple[str, ...]] = ()
    """Names in `Draw.parts`, for update rules that need them (a tensor may be drawn without any)."""
    draws_products: ClassVar[bool] = False
    """Whether a matrix is drawn as a product of two thin factors."""

    @property
    def advances_first(self) -> bool:
        """Whether the update follows what is drawn after `advance`, instead of what was measured."""
        return False

    @abc.abstractmethod
    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return the direction of one tensor and query, a pure function of its arguments."""

    def advance(
        self,
        trainable: Trainable,
        state: TensorState,
        *,
        keys: Sequence[int],
        step: int,
        coordinate_shape: tuple[int, ...],
        scalars: tuple[float, ...],
    ) -> None:
        """Change the direction's own state once the step's scalars are known (nothing for memoryless laws).

        `keys` are those of the step's queries, in order; it is called after the update of the tensor, or before
        it if `advances_first`.
        """

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """Numbers the direction itself keeps between steps for this tensor."""
        return 0

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the direction's own state (those of `tensors` that it keeps), expressed in a new basis."""
        return {}


class AbstractEstimator(AbstractPart):
    """Which losses give which scalars."""

    measures_clean_loss: ClassVar[bool] = False
    """Whether the logged loss is that at the weights themselves, from an evaluation of the block."""
    measures_curvature: ClassVar[bool] = False
    """Whether the last scalar is the second derivative of the loss along the one direction."""

    @property
    @abc.abstractmethod
    def zo_eps(self) -> float:
        """Perturbation scale, in units of theta; 0 for rules without finite differences."""

    @property
    @abc.abstractmethod
    def num_directions(self) -> int:
        """Directions per block and step."""

    @abc.abstractmethod
    def estimate(self, probe: Probe) -> Estimate:
        """Evaluate the losses of one block."""

    @abc.abstractmethod
    def weights(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return the weight of each direction in the gradient estimate, shape (num_directions,)."""

    def projected_grads(self, scalars: tuple[float, ...]) -> tuple[float, ...]:
        """Return those of a block's scalars that are slopes along directions, for logs; here all of them."""
        return scalars

    @property
    @abc.abstractmethod
    def num_forwards(self) -> int:
        """Loss evaluations per block and step."""

    def num_forwards_at(self, step: int) -> int:
        """Loss evaluations per block at one step, where their number changes."""
        return self.num_forwards


class AbstractUpdate(AbstractPart):
    """How the estimate becomes a step."""

    @property
    def num_decisions(self) -> int:
        """How many numbers `decide` returns for each block."""
        return 0

    def decide(self, trial: Trial) -> tuple[float, ...]:
        """Look at the step that the estimate suggests and return what was decided, for the journal.

        Called after the estimate of a block and before its update, only if `num_decisions` is not 0.
        """
        return ()

    @property
    def num_trials(self) -> int:
        """Loss evaluations of `decide`."""
        return 0

    @abc.abstractmethod
    def apply(self, context: UpdateContext) -> Change:
        """Advance the state and return the change of one tensor."""

    @abc.abstractmethod
    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """Numbers the rule keeps between steps for this tensor."""

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Express the rule's state of a tensor in a new basis, given the space's map for vectors of coordinates.

        State that is no vector (second moments) has to override this.
        """
        return {name: transport(tensor) for name, tensor in tensors.items()}


class AbstractSchedule(AbstractPart):
    """Which tensors move at which step.

    Attributes:
        sequential: True if a block's update is made before the next block of the same step is measured
            (Gauss-Seidel), False if all blocks are measured at the same weights (Jacobi).
    """

    sequential: bool
    state_names: ClassVar[tuple[str, ...]] = ()
    """Names of what the schedule itself keeps in the states, never transported."""

    @abc.abstractmethod
    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return the blocks of this step, disjoint, in the order in which they are visited.

        A pure function of its arguments: it is asked again when the update is made and when a run is replayed.
        """

    def begin_step(self, step: int, states: Mapping[Trainable, TensorState]) -> None:
        """Look at the weights when a step begins, before it is measured or replayed.

        What `member` needs of them goes into the states, as tensors; most schedules need nothing.
        """

    def member(self, member: Member, state: TensorState) -> Member:
        """Return a member of one of the `blocks`, with factors that depend on what the schedule keeps of its tensor."""
        return member

    @property
    def follows_metrics(self) -> bool:
        """Whether `report` matters, so that a run has to evaluate."""
        return False

    def report(self, metric: float, states: Mapping[Trainable, TensorState]) -> None:
        """Note in the states a metric of the current weights on dev rows, the smaller the better.

        Records of steps do not hold it: what follows from it for an update has to join the step's observation.
        """

    def observe(
        self, step: int, model: nn.Module, states: Mapping[Trainable, TensorState]
    ) -> AbstractContextManager[Callable[[], bytes]]:
        """Watch the forwards of a step; the context yields a function that says what was seen.

        What it returns joins the step's record, where there is anything. Only for schedules that are not sequential.
        """
        return nullcontext(bytes)

    def absorb(self, step: int, observation: bytes, states: Mapping[Trainable, TensorState], *, seed: int) -> None:
        """Note in the states what was observed at a step: before its update, and again when it is replayed."""

    def rows(self, trainable: Trainable, state: TensorState, *, step: int, seed: int) -> Tensor | None:
        """Rows along the first dimension (int64) that the update of a step writes; None for all of them.

        All rows are perturbed, whatever this says.
        """
        return None

    def num_state_elements(self, trainable: Trainable) -> int:
        """Numbers of the compute dtype that the schedule keeps between steps for this tensor."""
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A method, as its five parts."""

    space: AbstractSpace
    direction: AbstractDirection
    estimator: AbstractEstimator
    update: AbstractUpdate
    schedule: AbstractSchedule

    def describe(self) -> dict[str, object]:
        """Return names and settings of the parts, for journals and error messages."""
        return {axis: describe_part(getattr(self, axis)) for axis in self.__slots__}

    @property
    def num_forwards(self) -> int:
        """Loss evaluations per block and step; a trial of staying takes the clean loss from the estimate."""
        shared = self.update.num_trials > 0 and self.estimator.measures_clean_loss
        return self.estimator.num_forwards + self.update.num_trials - shared

    def num_forwards_at(self, step: int) -> int:
        """Loss evaluations per block at one step."""
        return self.num_forwards - self.estimator.num_forwards + self.estimator.num_forwards_at(step)

    def masking_part(self, trainables: Sequence[Trainable]) -> AbstractPart | None:
        """Return the space or schedule that leaves entries of tensors out at the first step, if one does."""
        if self.space.masks:
            return self.space
        blocks = self.schedule.blocks(0, trainables, seed=0)
        return self.schedule if any(member.mask for block in blocks for member in block.members) else None


def describe_part(part: object) -> dict[str, object]:
    """Return ``{"type": class name, **settings}`` of a part (parts are dataclasses)."""
    settings: Mapping[str, object] = {name: getattr(part, name) for name in getattr(part, "__dataclass_fields__", ())}
    return {"type": type(part).__name__, **settings}
