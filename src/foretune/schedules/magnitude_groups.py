"""Rows of LoRA factors whose activations are large: only they move."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from foretune import noise
from foretune.errors import IncompatibleError, UsageError
from foretune.noise import NUM_LANES, Noise, Purpose, RowMask
from foretune.schedules.activations import watch_outputs
from foretune.schedules.lora_blocks import check_lora
from foretune.schedules.plateau import Plateau
from foretune.schedules.whole import Whole
from foretune.types import AbstractSchedule, Block, Member, Parts, TensorState, Trainable

logger = logging.getLogger(__name__)

_VOTES = "row_votes"
_MEASURED = "measured_rows"
_LEVEL = "level_of_votes"
_RATIOS = (0.5, 0.7, 0.9)
_SILENT_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class MagnitudeGroups(AbstractSchedule):
    """All rows of A and B are measured jointly; the update writes those with the largest activations.

        M_A[j] = sum |(x A^T)_j|,  M_B[o] = sum |(x A^T B^T)_o|  over the tokens of the step's forwards but padding
        kept: the rows whose M is at least the ceil((1 - selective_ratio) rows)-th largest of their matrix

    Plainly, the rows kept at a step are those that its update writes. With `bcd`, a cycle of 450 steps begins with
    50 that move nothing and count how often each row is kept; the fraction 1 - selective_ratio with the highest counts
    is split into two random halves, and the update writes the first one for 200 steps, then the other one.

    Activations depend on data, so the rows that are kept join the step's record, one bit a row (nothing where all are
    kept): plainly at every step, with `bcd` at 50 of 450. Evaluations between steps are not watched. State: one number
    a row, how often it was kept (in this step, or in the counting part of this cycle).

    With `perturb_selected` the rows kept at a step are those that the next one perturbs and updates (the first one: all
    rows): where they are measured the estimate has the same mean and less variance. A row of B that is zero when it
    comes to rest has no activation any more, and rests for good. State: one number a row more.

    With `adaselect` the ratio moves from selective_ratio through the larger ones of 0.5, 0.7 and 0.9, to the next one
    after `patience` reports (`Optimizer.report`) in a row that do not improve on the best one. A new ratio holds from
    the next step on at which activations are compared; with `bcd` the last of a cycle's 50 decides how many rows it
    moves. Each of these steps has its ratio's place in the record, in one byte. State: four numbers a tensor more.

    Rows that tie are kept together: all of a matrix whose activations are zero. (B's are not quite, where B is zero:
    the forwards are those at the perturbed weights.)

    Args:
        selective_ratio: Fraction s of the rows that rest, in [0, 1).
        bcd: Select once a cycle and move the rows in two halves.
        count_steps, half_steps: Lengths of the parts of a cycle. Published: 50 and 200.
        perturb_selected: Perturb only the rows that are updated, which are then those kept at the step before.
        adaselect: Raise the ratio when the dev metric stops improving.
        patience: Evaluations without improvement before it is raised. Not published.
    Raises:
        UsageError: a setting out of range.
    References:
        MGS-BCD, "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass": the published code's
        flags selective, selective_ratio, bcd and adaSelect.
        Differs from the published code: evaluation is not counted, M_B is of B's own output, and every cycle begins
        at its own start (there all but the first are 50/150/200).
    """

    selective_ratio: float = 0.5
    bcd: bool = False
    count_steps: int = 50
    half_steps: int = 200
    perturb_selected: bool = False
    adaselect: bool = False
    patience: int = 3

    sequential = False
    state_names: ClassVar[tuple[str, ...]] = (_VOTES, _MEASURED, _LEVEL, *Plateau.STATE_NAMES)

    def __post_init__(self) -> None:
        if not 0 <= self.selective_ratio < 1:
            raise UsageError(f"selective_ratio must be in [0, 1), got {self.selective_ratio}.")
        for name in ("count_steps", "half_steps", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.bcd and self.perturb_selected:
            raise UsageError("perturb_selected is for rows that are selected at every step: drop it, or bcd.")
        if not self.adaselect and self.patience != type(self).patience:
            raise UsageError("patience would have no effect: the ratio stays. Drop it, or set adaselect=True.")
        if self.adaselect and len(self._ratios) == 1:
            raise UsageError(
                f"adaselect raises selective_ratio up to {_RATIOS[-1]} and cannot begin at {self.selective_ratio}; "
                "give a smaller one, or leave adaselect out."
            )

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse other tensors than LoRA's of linear layers, and parts that do not see rows."""
        name = type(self).__name__
        check_lora(name, trainables)
        other = next((t for t in trainables if "lora_embedding_" in t.name or len(t.shape) != 2), None)
        if other is not None:
            raise IncompatibleError(
                f"{name} compares activations of linear layers; '{other.name}' of shape {other.shape} belongs to "
                "another kind. Adapt linear layers only."
            )
        if any(parts.space.lifts(trainable) for trainable in trainables):
            space = type(parts.space).__name__
            raise IncompatibleError(f"{name} cannot be combined with {space}: it moves rows, which move jointly there.")
        if self.perturb_selected and parts.space.masks:
            space = type(parts.space).__name__
            raise IncompatibleError(
                f"{name} cannot be combined with {space}: both mask the entries of a tensor. Drop perturb_selected."
            )
        if parts.update.num_trials and not self.perturb_selected:
            update = type(parts.update).__name__
            raise IncompatibleError(f"{name} cannot be combined with {update}, which tries steps of all rows.")

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return one block with every tensor."""
        if not self.perturb_selected:
            return Whole().blocks(step, trainables, seed=seed)
        return (Block(tuple(Member(t, mask=RowMask(torch.arange(t.shape[0]))) for t in trainables)),)

    def begin_step(self, step: int, states: Mapping[Trainable, TensorState]) -> None:
        """Keep which rows the step before has selected, if it is these that are measured."""
        if self.perturb_selected:
            for trainable, state in states.items():
                every = torch.ones(trainable.shape[0], dtype=trainable.compute_dtype, device=trainable.parameter.device)
                state.tensors[_MEASURED] = state.tensors.get(_VOTES, every)

    def member(self, member: Member, state: TensorState) -> Member:
        """Return the member, masked but for the rows that are measured at this step."""
        if not self.perturb_selected:
            return member
        return replace(member, mask=RowMask(state.tensors[_MEASURED].nonzero().flatten()))

    @property
    def follows_metrics(self) -> bool:
        """Whether the ratio depends on evaluations."""
        return self.adaselect

    def report(self, metric: float, states: Mapping[Trainable, TensorState]) -> None:
        """Raise the ratio where the metric has stopped improving."""
        if self.adaselect:
            for trainable, state in states.items():
                self._plateau.report(metric, trainable, state)

    def observe(
        self, step: int, model: nn.Module, states: Mapping[Trainable, TensorState]
    ) -> AbstractContextManager[Callable[[], bytes]]:
        """Compare the activations of the step's forwards; what is seen is which rows are kept, one bit each."""
        shared = next(iter(states.values()))  # what follows metrics is equal in all of them
        if self.adaselect and step == _SILENT_STEPS and not self._plateau.has_reports(shared):
            logger.warning(
                "No metric was reported in the first %d steps: selective_ratio stays at %g. adaselect waits for "
                "Optimizer.report, which trainers call after an evaluation.",
                step,
                self.selective_ratio,
            )
        if not self._counts(step):
            return super().observe(step, model, states)
        return self._watch(step, model, tuple(states), self._plateau.level(shared))

    @contextmanager
    def _watch(
        self, step: int, model: nn.Module, trainables: Sequence[Trainable], level: int
    ) -> Iterator[Callable[[], bytes]]:
        prefix = bytes([level]) if self.adaselect else b""
        with watch_outputs(model, trainables) as sums:
            yield lambda: prefix + self._kept(step, trainables, sums, self._ratios[level])

    def _kept(
        self, step: int, trainables: Sequence[Trainable], sums: Mapping[Trainable, Tensor], ratio: float
    ) -> bytes:
        if not sums:
            logger.warning("No adapter ran while step %d was measured: all of its rows are kept.", step)
        kept = [
            largest(sums[trainable], ratio).cpu()
            if trainable in sums
            else torch.ones(trainable.shape[0], dtype=torch.bool)
            for trainable in trainables
        ]
        bits = torch.cat(kept).numpy()
        return b"" if bits.all() else np.packbits(bits).tobytes()

    def absorb(self, step: int, observation: bytes, states: Mapping[Trainable, TensorState], *, seed: int) -> None:
        """Count the rows that were kept, and note at which ratio."""
        if not self._counts(step):
            return
        level = 0
        if self.adaselect:
            level, observation = observation[0], observation[1:]
        num_rows = [trainable.shape[0] for trainable in states]
        bits = np.ones(sum(num_rows), dtype=np.uint8)
        if observation:
            bits = np.unpackbits(np.frombuffer(observation, dtype=np.uint8), count=bits.size)
        for (trainable, state), kept in zip(states.items(), torch.from_numpy(bits).split(num_rows), strict=True):
            votes = kept.to(trainable.parameter.device, trainable.compute_dtype)
            begins = not self.bcd or step % self._cycle == 0
            state.tensors[_VOTES] = votes if begins else state.tensors[_VOTES] + votes
            if self.adaselect:
                self._plateau.restore(level, trainable, state)
                state.tensors[_LEVEL] = votes.new_full((1,), level)

    def rows(self, trainable: Trainable, state: TensorState, *, step: int, seed: int) -> Tensor | None:
        """Return the rows that the update of this step writes."""
        votes, place = state.tensors[_VOTES], step % self._cycle
        if self.perturb_selected:
            return None  # the members' masks say which
        if not self.bcd:
            return None if bool(votes.all()) else votes.nonzero().flatten()
        if place < self.count_steps:
            return votes.new_empty(0, dtype=torch.int64)
        address = Noise(noise.mix(seed, step // self._cycle), trainable.stream, Purpose.SPLIT)
        lanes = noise.lanes(votes.numel(), address, votes.device)
        ranks = votes.long() * NUM_LANES + lanes  # of equal counts, the larger lane
        ratio = self._ratios[int(state.tensors[_LEVEL]) if self.adaselect else 0]
        kept = ranks.argsort(descending=True, stable=True)[: _num_kept(votes.numel(), ratio)]
        shuffled = kept[lanes[kept].argsort(stable=True)]
        middle = (kept.numel() + 1) // 2
        return shuffled[:middle] if place < self.count_steps + self.half_steps else shuffled[middle:]

    def num_state_elements(self, trainable: Trainable) -> int:
        """One or two a row; with `adaselect` its level and that of the votes."""
        of_levels = 1 + Plateau.NUM_ELEMENTS if self.adaselect else 0
        return trainable.shape[0] * (2 if self.perturb_selected else 1) + of_levels

    def _counts(self, step: int) -> bool:
        """Whether activations are compared at this step."""
        return not self.bcd or step % self._cycle < self.count_steps

    @property
    def _ratios(self) -> tuple[float, ...]:
        """The ratio of each level."""
        larger = (ratio for ratio in _RATIOS if self.adaselect and ratio > self.selective_ratio)
        return (self.selective_ratio, *larger)

    @property
    def _plateau(self) -> Plateau:
        return Plateau(patience=self.patience, top=len(self._ratios) - 1)

    @property
    def _cycle(self) -> int:
        return self.count_steps + 2 * self.half_steps


def largest(sizes: Tensor, ratio: float) -> Tensor:
    """Return which rows are kept where this fraction of them rests, as bools: those of the largest sizes, with ties."""
    return sizes >= sizes.sort(descending=True).values[_num_kept(sizes.numel(), ratio) - 1]


def _num_kept(num_rows: int, ratio: float) -> int:
    return math.ceil((1 - ratio) * num_rows - 1e-9)  # 0.3 * 10 is a little more than 3
