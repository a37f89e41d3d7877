"""The work of a step, counted at the noise backends, and what it should be: formulas, one for each part.

Elements are counted by phase (perturbation, update, refresh of a basis) and purpose, so a direction that is drawn
twice, a row that nothing reads or a basis that is made again shows in a number. A new part has to say here what it
costs.

Shape letters: m rows, n columns, r rank, q directions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from foretune import Optimizer
from foretune.directions import Gaussian, HessianScaled, LowRankProduct, MomentumGuided, Rademacher
from foretune.engine.layerwise import Layerwise
from foretune.estimators import ForwardMode
from foretune.noise import LaneMask, Purpose, RowMask, cpu_numba, reference
from foretune.noise.address import Noise
from foretune.noise.layout import Layout
from foretune.spaces import Identity, LowRank, Masked, OneSidedOrthonormal, Orthonormal, bases
from foretune.types import (
    AbstractDirection,
    AbstractEstimator,
    AbstractSpace,
    AbstractUpdate,
    LossClosure,
    Member,
    Trainable,
)
from foretune.updates import SGD, Adam, AdaMU, Conservative, HeavyBall, Momentum, Muon, Sign

Elements = Counter[Purpose]


@dataclass
class Work:
    """What one step does.

    Attributes:
        forwards: Calls of the closure.
        elements: Noise elements that are generated, by phase and purpose.
        scratch_bytes: Written to perturbed copies or tangents.
        weight_bytes: Written to weights that stay.
    """

    forwards: int = 0
    elements: Counter[tuple[str, Purpose]] = field(default_factory=Counter)
    scratch_bytes: int = 0
    weight_bytes: int = 0

    def add(self, phase: str, elements: Mapping[Purpose, int], times: int = 1) -> None:
        """Add noise elements of one phase."""
        for purpose, number in elements.items():
            if number * times:
                self.elements[phase, purpose] += number * times


# ---------------------------------------------------------------- counting


class Meter:
    """Counts the work of single steps of an optimizer; its engine has to be chosen already."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.work = Work()
        self._phase = "refresh"
        self._scratch: set[int] = set()  # storages of the perturbed copies that are being written
        self._weights: set[int] = set()

    def step(self, closure: LossClosure) -> Work:
        """Make one step and return its work."""
        self.work = work = Work()
        self._weights = {_storage(trainable.parameter) for trainable in self.optimizer.trainables}

        def counted() -> Tensor | float:
            work.forwards += 1
            return closure()

        with self._watching():
            self.optimizer.step(counted)
        return work

    @contextmanager
    def _watching(self) -> Iterator[None]:
        engine = self.optimizer.engine
        assert engine is not None
        patches = [
            *(mock.patch.object(engine, name, partial(self._evaluate, getattr(engine, name))) for name in _EVALUATIONS),
            *(mock.patch.object(cpu_numba, name, partial(self._call, getattr(cpu_numba, name))) for name in _KERNELS),
            mock.patch.object(reference, "lanes", partial(self._lanes, reference.lanes)),
            mock.patch.object(self.optimizer, "_move", self._in_phase("update")(self.optimizer._move)),
            mock.patch.object(bases, "orthonormal_basis", self._in_phase("refresh")(bases.orthonormal_basis)),
        ]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()

    @contextmanager
    def _in_phase(self, phase: str) -> Iterator[None]:
        before, self._phase = self._phase, phase
        try:
            yield
        finally:
            self._phase = before

    def _evaluate(self, evaluate: Callable[..., Any], closure: LossClosure, displacement: Any) -> Any:
        with self._in_phase("perturbation"):
            if isinstance(displacement, list):
                return evaluate(closure, [self._watched(one) for one in displacement])
            return evaluate(closure, self._watched(displacement))

    def _watched(self, displacement: Any) -> Any:
        # `losses` may ask for one `loss` after the other
        is_done = displacement is None or isinstance(displacement, _Watched)
        return displacement if is_done else _Watched(displacement, self._scratch_is)

    @contextmanager
    def _scratch_is(self, *outs: Tensor) -> Iterator[None]:
        self._scratch = {_storage(out) for out in outs}
        try:
            yield
        finally:
            self._scratch = set()

    def _call(self, kernel: Callable[..., None], out: Tensor, *args: Any) -> None:
        layout = next((a for a in args if isinstance(a, Layout)), Layout(1, out.numel(), 0, 0, out.numel()))
        number = layout.num_selected * layout.row_length
        self.work.add(self._phase, Counter(noise.purpose for noise in _addresses(args)), number)
        if _storage(out) in self._scratch:
            mirrors = kernel.__name__ == "add" and args[-1] is not None
            self.work.scratch_bytes += (1 + mirrors) * number * out.itemsize
        elif _storage(out) in self._weights:
            self.work.weight_bytes += number * out.itemsize
        kernel(out, *args)

    def _lanes(self, lanes: Callable[..., Tensor], starts: Tensor, length: int, noise: Noise) -> Tensor:
        self.work.add(self._phase, {noise.purpose: starts.numel() * length})
        return lanes(starts, length, noise)


_EVALUATIONS = ("loss", "losses", "slope")
_KERNELS = ("fill", "add", "add_low_rank")


class _Watched:
    """A displacement that says where it writes."""

    def __init__(self, displacement: Any, scratch_is: Callable[..., Any]) -> None:
        self.moves = displacement.moves
        self._displacement = displacement
        self._scratch_is = scratch_is

    def write(self, trainable: Trainable, *, out: Tensor, **others: Any) -> None:
        with self._scratch_is(out):
            self._displacement.write(trainable, out=out, **others)

    def mirrors(self, other: Any) -> bool:
        return self._displacement.mirrors(getattr(other, "_displacement", other))

    def prepare(self, trainables: Sequence[Trainable]) -> None:
        self._displacement.prepare(trainables)

    def factors(self, trainable: Trainable) -> Any:
        return self._displacement.factors(trainable)

    def write_both(self, trainable: Trainable, *, out: Tensor, mirrored: Tensor, **others: Any) -> None:
        with self._scratch_is(out, mirrored):
            self._displacement.write_both(trainable, out=out, mirrored=mirrored, **others)

    def write_tangent(self, trainable: Trainable, *, out: Tensor, **others: Any) -> None:
        with self._scratch_is(out):
            self._displacement.write_tangent(trainable, out=out, **others)


def _addresses(args: Sequence[Any]) -> Iterator[Noise]:
    """The noise tensors that a call of a backend generates."""
    for value in args:
        if isinstance(value, Noise):
            yield value
        elif isinstance(value, LaneMask):
            yield value.address
        elif isinstance(value, list):
            yield from (noise for _, noise in value)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# ---------------------------------------------------------------- what is read


@dataclass(frozen=True)
class Read:
    """A tensor that an evaluation of the loss reads.

    Attributes:
        trainable: It.
        rows: Those that are read; None for all.
        is_linear: Whether a linear layer does.
        is_outweighed: Whether that layer's inputs and outputs have more numbers than its weight.
    """

    trainable: Trainable
    rows: Tensor | None = None
    is_linear: bool = False
    is_outweighed: bool = False


@torch.no_grad()
def reads_of(optimizer: Optimizer, closure: LossClosure) -> list[Read]:
    """What the modules that own trainable tensors read in one evaluation; once each where it is perturbed at once.

    Tensors that the engine holds are perturbed at once, whatever is read of them.
    """
    if optimizer.engine_name == "in_place":
        return [Read(trainable) for trainable in optimizer.trainables]
    assert isinstance(optimizer.engine, Layerwise)
    held = optimizer.engine.held
    by_parameter = {trainable.parameter: trainable for trainable in optimizer.trainables if trainable not in held}
    reads = [Read(trainable) for trainable in held]

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # what a subclass looks up need not be its argument: OPT's position embedding shifts it, and is read as a whole
        rows = args[0].unique() if type(module) is nn.Embedding else None
        own = [by_parameter[p] for p in module.parameters(recurse=False) if p in by_parameter]
        for trainable in own:
            is_linear = type(module) is nn.Linear and trainable.parameter is module.weight
            numbers = sum(trainable.shape) * (args[0].numel() // args[0].shape[-1]) if is_linear else 0
            reads.append(Read(trainable, rows, is_linear, is_outweighed=numbers > math.prod(trainable.shape)))

    handles = [module.register_forward_pre_hook(note) for module in optimizer.model.modules()]
    closure()
    for handle in handles:
        handle.remove()
    return reads


# ---------------------------------------------------------------- the formulas


def expected_work(optimizer: Optimizer, reads: Sequence[Read]) -> Work:
    """The work of the step that `optimizer` has made last, from its parts; not of a tensor's first one.

        perturbation   displaced evaluations x tensors read in one x (direction + basis + mask)
        update         tensors that move x (q directions + basis + mask + what rule and direction draw beside)
        refresh        tensors that move x new basis, where an epoch begins

    Every write in half precision takes one lane an entry for its rounding beside. Linear layers whose weights move
    along thin factors write nothing while their inputs and outputs are smaller than the weight. By the paired engine,
    in a closure that runs the model as a whole, they never do, and both signs of a direction are written at once.
    """
    parts, step = optimizer.parts, optimizer.num_steps - 1
    estimator, update, direction, space = parts.estimator, parts.update, parts.direction, parts.space
    blocks, record = optimizer._blocks(step), optimizer.last_record
    assert record is not None
    decision = record.scalars[len(record.scalars) - update.num_decisions :]
    rests = bool(decision) and not any(decision)

    shifts = estimator.num_forwards - estimator.measures_clean_loss  # each along one direction
    trials = max(0, update.num_trials - 1)  # each along all of them; to stay is no displacement
    is_paired = optimizer.engine_name == "paired"
    writes = estimator.num_directions if is_paired else shifts
    work = Work(forwards=len(blocks) * parts.num_forwards)
    for block in blocks:
        members = {member.trainable: member for member in block.members}
        for read in (read for read in reads if read.trainable in members):
            write = Write(optimizer, members[read.trainable], read.rows)
            work.add("perturbation", DRAWS[type(direction)](write), writes + trials * estimator.num_directions)
            work.add("perturbation", write.beside_directions(Purpose.PERTURBATION_ROUNDING), writes)
            work.add("perturbation", write.beside_directions(Purpose.UPDATE_ROUNDING), trials)
            is_factored = read.is_linear and write.is_thin and (is_paired or not read.is_outweighed)
            work.scratch_bytes += ((0 if is_factored else shifts) + trials) * write.num_bytes
        for member in block.members:
            trainable, state = member.trainable, optimizer.tensor_states[member.trainable]
            write = Write(optimizer, member, parts.schedule.rows(trainable, state, step=step, seed=optimizer.seed))
            work.add("refresh", REFRESHES[type(space)](write) if space.epoch(step) != space.epoch(step - 1) else {})
            work.add("update", ADVANCES[type(direction)](write))
            if not rests:
                work.add("update", DRAWS[type(direction)](write), estimator.num_directions)
                work.add("update", write.beside_directions(Purpose.UPDATE_ROUNDING))
                work.add("update", UPDATES[type(update)](write))
                work.weight_bytes += write.num_bytes
    return work


@dataclass(frozen=True)
class Write:
    """A tensor that is written once, as a whole or in some rows."""

    optimizer: Optimizer
    member: Member
    rows: Tensor | None

    @property
    def trainable(self) -> Trainable:
        """The tensor."""
        return self.member.trainable

    @property
    def lifts(self) -> bool:
        """Whether its coordinates are others than its entries."""
        return self.optimizer.parts.space.lifts(self.trainable)

    @property
    def is_thin(self) -> bool:
        """Whether it moves along a product of two thin factors, as the matrix it is."""
        parts, trainable = self.optimizer.parts, self.trainable
        if trainable.matrix_shape is None or trainable.num_views > 1 or self.member.mask is not None:
            return False
        if isinstance(parts.space, Orthonormal):
            return parts.space.view_shape(trainable) == trainable.shape
        return self.lifts or isinstance(parts.direction, LowRankProduct)

    @property
    def num_entries(self) -> int:
        """Entries that are written."""
        rows, mask = self.rows, self.member.mask
        if isinstance(mask, RowMask):
            rows = mask.rows if rows is None else rows[torch.isin(rows, mask.rows)]
        shape = self.trainable.shape
        return math.prod(shape) if rows is None else rows.numel() * math.prod(shape[1:])

    @property
    def num_bytes(self) -> int:
        """What is written."""
        return self.num_entries * self.trainable.parameter.itemsize

    @property
    def num_coordinates(self) -> int:
        """All coordinates of the tensor."""
        return math.prod(self.optimizer.parts.space.coordinate_shape(self.trainable))

    @property
    def num_drawn(self) -> int:
        """Coordinates of what is written."""
        return self.num_coordinates if self.lifts else self.num_entries

    @property
    def is_remembered(self) -> bool:
        """Whether the direction keeps state of this tensor."""
        shape = self.optimizer.parts.space.coordinate_shape(self.trainable)
        return self.optimizer.parts.direction.num_state_elements(self.trainable, shape) > 0

    def beside_directions(self, rounding: Purpose) -> Elements:
        """What is generated once, however many directions are written: basis, mask and bits that round."""
        space, state = self.optimizer.parts.space, self.optimizer.tensor_states[self.trainable]
        found = Elements(BASES[type(space)](self))
        mask = self.member.mask or space.mask(self.trainable, state, seed=self.optimizer.seed, epoch=state.epoch)
        if isinstance(mask, LaneMask):
            found[mask.address.purpose] += self.num_entries
        if self.trainable.parameter.itemsize == 2:
            found[rounding] += self.num_entries
        return found


Formula = Callable[[Write], Mapping[Purpose, int]]


def _nothing(write: Write) -> Mapping[Purpose, int]:
    return {}


def _one_draw(write: Write) -> Mapping[Purpose, int]:
    return {Purpose.DIRECTION: write.num_drawn}


def _product(write: Write) -> Mapping[Purpose, int]:
    """r (m + n), whichever rows are written."""
    direction, trainable = write.optimizer.parts.direction, write.trainable
    assert isinstance(direction, LowRankProduct)
    if trainable.matrix_shape is None:
        return _one_draw(write)
    m, n = trainable.matrix_shape
    return {Purpose.LEFT: direction.rank * m, Purpose.RIGHT: direction.rank * n}


def _whole_draw(write: Write) -> Mapping[Purpose, int]:
    """A direction that is made before it is added is made as a whole."""
    return {Purpose.DIRECTION: write.num_coordinates}


def _remembering_draw(write: Write) -> Mapping[Purpose, int]:
    direction = write.optimizer.parts.direction
    assert isinstance(direction, MomentumGuided)
    if not write.is_remembered:
        return _one_draw(write)
    is_whole = direction.orthogonalize and write.trainable.matrix_shape is not None
    number = write.num_coordinates if is_whole else write.num_drawn
    return dict.fromkeys((Purpose.DIRECTION, Purpose.HISTORY), number)


def _memory(write: Write) -> Mapping[Purpose, int]:
    if not write.is_remembered:
        return {}
    return dict.fromkeys((Purpose.DIRECTION, Purpose.HISTORY), write.num_coordinates)


DRAWS: dict[type[AbstractDirection], Formula] = {
    Gaussian: _one_draw,
    Rademacher: _one_draw,
    LowRankProduct: _product,
    HessianScaled: _whole_draw,
    MomentumGuided: _remembering_draw,  # after its warm-up
}
"""One direction of one tensor."""

ADVANCES: dict[type[AbstractDirection], Formula] = {
    Gaussian: _nothing,
    Rademacher: _nothing,
    LowRankProduct: _nothing,
    HessianScaled: _whole_draw,
    MomentumGuided: _memory,
}
"""What a direction generates again to remember."""

UPDATES: dict[type[AbstractUpdate], Formula] = {
    **dict.fromkeys((SGD, Momentum, Sign, Adam, Muon, HeavyBall, Conservative), _nothing),
    AdaMU: _memory,
}
"""What a rule generates beside the directions of its estimate."""


def _right(write: Write) -> Mapping[Purpose, int]:
    """r n for each view of a matrix."""
    space = write.optimizer.parts.space
    assert isinstance(space, LowRank)
    return {Purpose.RIGHT: space.rank * write.trainable.matrix_shape[1]} if write.trainable.matrix_shape else {}


def _both_sides(write: Write) -> Mapping[Purpose, int]:
    """rho (a + b) for a matrix."""
    space, trainable = write.optimizer.parts.space, write.trainable
    assert isinstance(space, Orthonormal)
    if trainable.matrix_shape is None:
        return {}
    a, b = space.view_shape(trainable)
    rho = min(space.rank, a, b)
    return {Purpose.LEFT: rho * a * trainable.num_views, Purpose.RIGHT: rho * b * trainable.num_views}


def _transport(write: Write) -> Mapping[Purpose, int]:
    """The old V and the new one, where a rule has state."""
    has_state = write.optimizer.parts.update.num_state_elements(write.trainable, write.trainable.shape) > 0
    return {purpose: 2 * number for purpose, number in _right(write).items() if has_state}


def _left_side(write: Write) -> Mapping[Purpose, int]:
    """rho m for each view of a matrix."""
    space, trainable = write.optimizer.parts.space, write.trainable
    assert isinstance(space, OneSidedOrthonormal)
    if trainable.matrix_shape is None:
        return {}
    m = trainable.matrix_shape[0]
    return {Purpose.LEFT: min(space.rank, m) * m * trainable.num_views}


BASES: dict[type[AbstractSpace], Formula] = {
    **dict.fromkeys((Identity, Masked, Orthonormal, OneSidedOrthonormal), _nothing),
    LowRank: _right,
}
"""The basis, where every write regenerates it."""

REFRESHES: dict[type[AbstractSpace], Formula] = {
    **dict.fromkeys((Identity, Masked), _nothing),
    LowRank: _transport,
    Orthonormal: _both_sides,
    OneSidedOrthonormal: _left_side,
}
"""What a new epoch costs: a basis that is kept, or two for state that is carried over."""


# ---------------------------------------------------------------- temporaries


def expected_temporaries(optimizer: Optimizer, least_bytes: float) -> int:
    """Allocations of at least this size in a step, where the forward makes none; one block with every tensor."""
    parts = optimizer.parts
    num_draws = parts.num_forwards - parts.estimator.measures_clean_loss + parts.estimator.num_directions
    of_tensor = (
        num_draws * OF_DRAW.get(type(parts.direction), 0)
        + OF_ADVANCE.get(type(parts.direction), 0)
        + OF_ESTIMATE.get(type(parts.estimator), 0)
        + OF_UPDATE.get(type(parts.update), 0)
    )
    coordinates = (math.prod(parts.space.coordinate_shape(t)) * t.compute_dtype.itemsize for t in optimizer.trainables)
    return of_tensor * sum(size >= least_bytes for size in coordinates)


OF_DRAW: dict[type[AbstractDirection], int] = {HessianScaled: 2}  # y, and z of each piece
OF_ADVANCE: dict[type[AbstractDirection], int] = {HessianScaled: 1}  # z
OF_ESTIMATE: dict[type[AbstractEstimator], int] = {ForwardMode: 2}  # by torch's rules of differentiation
OF_UPDATE: dict[type[AbstractUpdate], int] = {
    Adam: 1,  # the estimate, then the step in its place
    Sign: 1,
    AdaMU: 4,  # the step, and of each piece both parts of the direction and the estimate
    Muon: 1 + 5 * 3,  # the estimate, and what each of five Newton-Schulz steps makes
}
"""Temporaries of a tensor's coordinates, which are one piece here: none where noise is added as it is generated."""
