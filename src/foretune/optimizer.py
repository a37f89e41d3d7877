"""Binds a method's five parts, an engine and a journal: the one class most users meet."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foretune import noise
from foretune.directions import Gaussian
from foretune.engine import ENGINES, AbstractEngine, EngineName, choose_engine, hold_interrupts
from foretune.errors import IncompatibleError, NonFiniteLossError, UsageError, near_misses
from foretune.journal import JournalWriter, StepRecord
from foretune.noise import Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.probe import BlockProbe, BlockTrial
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.step_directions import StepDirections
from foretune.types import (
    AbstractDirection,
    AbstractEstimator,
    AbstractSchedule,
    AbstractSpace,
    AbstractUpdate,
    Block,
    Estimate,
    LossClosure,
    Parts,
    TensorState,
    Trainable,
    UpdateContext,
)
from foretune.updates import SGD

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 10
"""Steps in a row with a non-finite loss before a run is stopped (methods.md 1.4)."""


class Optimizer(torch.optim.Optimizer):
    """A zeroth-order method on a model: each step evaluates losses, journals their scalars, and moves the weights.

        opt = Optimizer(model, space=LowRank(rank=4), estimator=TwoSided(zo_eps=1e-3), update=Momentum(), lr=1e-6)
        loss = opt.step(lambda: model(**batch).loss)

    The closure is called several times per step and must use the same data each time; it may return a scalar
    tensor (float32 or better) or a number, so the objective need not be differentiable. Dropout is off while it
    runs. Memory beyond inference: one layer (`layerwise` engine), one copy of the trainable tensors (`in_place`), or
    two layers and the activations of another forward (`paired`), and the declared state (`state_bytes`). No `.grad` is
    ever made, and the global random state is never touched: everything random is a function of (seed, step, direction,
    tensor name).

    It is a `torch.optim.Optimizer`: `lr` is read from `param_groups` at each step, so torch and transformers
    schedulers work.

    Args:
        model: Any module; its parameters with `requires_grad` are tuned.
        space, direction, estimator, update, schedule: The parts; see `foretune.types`.
        lr: Learning rate, 0 or more.
        seed: Run seed, any integer of 64 bits.
        engine: ``auto`` (the rule of `engine/choice.py`), ``layerwise``, ``in_place`` or ``paired``.
        method: Name and settings of the method these parts come from, for journals and model cards.
    Raises:
        UsageError: an argument out of range.
        IncompatibleError: parts or tensors that cannot work together.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        estimator: AbstractEstimator,
        lr: float,
        space: AbstractSpace | None = None,
        direction: AbstractDirection | None = None,
        update: AbstractUpdate | None = None,
        schedule: AbstractSchedule | None = None,
        seed: int = 0,
        engine: EngineName = "auto",
        method: Mapping[str, object] | None = None,
    ) -> None:
        if not (lr >= 0 and math.isfinite(lr)):
            raise UsageError(f"lr must be 0 or more and finite, got {lr}.")
        if engine not in ENGINES:
            raise UsageError(f"Unknown engine {engine!r}.{near_misses(engine, ENGINES)}")
        if engine == "paired" and not estimator.zo_eps:
            raise IncompatibleError(
                f"Engine 'paired' cannot serve {type(estimator).__name__}, which differentiates one forward at a time "
                "instead of comparing losses. Use 'auto'."
            )
        self.model = model
        self.parts = Parts(
            space=space or Identity(),
            direction=direction or Gaussian(),
            estimator=estimator,
            update=update or SGD(),
            schedule=schedule or Whole(),
        )
        self.seed = seed
        self.method = dict(method or {})
        self.trainables = collect_trainables(model)
        for part in (self.parts.space, self.parts.direction, estimator, self.parts.update, self.parts.schedule):
            part.check(self.parts, self.trainables)
        self._is_open = True
        super().__init__([trainable.parameter for trainable in self.trainables], {"lr": lr})
        self._is_open = False
        self.tensor_states = {trainable: TensorState() for trainable in self.trainables}
        self.num_steps = 0
        self.num_bad_steps = 0
        self.last_record: StepRecord | None = None
        self.engine: AbstractEngine | None = None
        self.engine_name: EngineName = engine
        self._epoch = -1  # the space's, whose beginning it has seen
        self._moved: list[Estimate] = []  # of a sequential step under way: the blocks that have moved
        self._pending: StepRecord | None = None
        self._pending_is_recorded = False
        self._journal: JournalWriter | None = None
        self._journal_to_create: tuple[Path, dict[str, Any]] | None = None

    # ---------------------------------------------------------------- one step

    @property
    def lr(self) -> float:
        """The learning rate that the next step will use."""
        return float(self.param_groups[0]["lr"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the tensors are those of the model, by name.

        Raises:
            UsageError: always, once the optimizer is made.
        """
        if not self._is_open:
            raise UsageError(
                "add_param_group() cannot add tensors: the optimizer tunes every parameter of its model that has "
                "requires_grad when it is made. Set requires_grad, then make a new optimizer."
            )
        super().add_param_group(param_group)

    def step(self, closure: LossClosure | None = None) -> Tensor:  # pyrefly: ignore[bad-override]
        """Measure and move. Without a closure, make the update of the last `estimate` or `recall`.

        Returns:
            The training loss that was measured, a float64 scalar (two-sided: mean over both sides).
        Raises:
            UsageError: no closure and nothing estimated; or the closure does not return a usable loss.
            NonFiniteLossError: the loss was nan or infinite for `MAX_BAD_STEPS` steps in a row.
        """
        if closure is not None:
            self.estimate(closure)
        if self._pending is None:
            raise UsageError("step() needs a closure that evaluates the loss, or an estimate() before it.")
        record, self._pending = self._pending, None
        with hold_interrupts():
            if self._journal is not None and not self._pending_is_recorded:
                self._journal.append(record)
            self._apply(record)
        if self.num_bad_steps >= MAX_BAD_STEPS:
            scale = f" or zo_eps ({record.zo_eps:g})" if record.zo_eps else ""
            raise NonFiniteLossError(
                f"Loss is {record.loss} at step {record.step}, the {self.num_bad_steps}th step in a row without a "
                f"finite loss. Nothing was learned from them. Lower lr ({record.lr:g}){scale}."
            )
        return torch.tensor(record.loss, dtype=torch.float64)

    def estimate(self, closure: LossClosure) -> float:
        """Measure the losses of the next step and keep their scalars for `step()`; return the training loss.

        The weights are unchanged on return (with a sequential schedule: moved by all blocks but the last; if the
        closure raises between two blocks, the next call goes on with the block it raised in).
        """
        if self.engine is None:
            self.engine = choose_engine(self.engine_name, self.model, self.trainables, closure)
            self.engine_name = self.engine.name
            self._create_journal()
        self._begin_step()
        blocks = self._blocks(self.num_steps)
        estimates = list(self._moved)
        watch = self.parts.schedule.observe(self.num_steps, self.model, self.tensor_states)
        with self.engine.session(), watch as observed:
            for index, block in list(enumerate(blocks))[len(estimates) :]:
                self._refresh(block)
                found = self._measure(BlockProbe(self._directions, self.engine, closure, block, index))
                estimates.append(found)
                if self.parts.schedule.sequential and index + 1 < len(blocks):
                    with hold_interrupts():
                        self._move(block, index, found.scalars, self.lr)
                        self._moved.append(found)
        self._moved = []
        self._pending = StepRecord(
            step=self.num_steps,
            scalars=tuple(scalar for found in estimates for scalar in found.scalars),
            loss=math.fsum(found.loss for found in estimates) / len(estimates),
            lr=self.lr,
            zo_eps=self.parts.estimator.zo_eps,
            accepted=all(math.isfinite(found.loss) for found in estimates),
            observation=observed(),
        )
        self._pending_is_recorded = False
        return self._pending.loss

    def num_forwards_at(self, step: int) -> int:
        """Return the loss evaluations of a step, wherever the optimizer stands."""
        blocks = self.parts.schedule.blocks(step, self.trainables, seed=self.seed)
        return len(blocks) * self.parts.num_forwards_at(step)

    def _measure(self, probe: BlockProbe) -> Estimate:
        """Return what the losses of one block say and what the update decides; zeros if they are not finite."""
        parts = self.parts
        found = parts.estimator.estimate(probe)
        if not all(map(math.isfinite, found.scalars)):
            logger.warning("Non-finite loss at step %d: its projected gradient is taken as 0.", self.num_steps)
            bad_loss = math.nan if math.isfinite(found.loss) else found.loss
            return Estimate((0.0,) * (len(found.scalars) + parts.update.num_decisions), bad_loss)
        if parts.update.num_decisions:
            clean_loss = found.loss if parts.estimator.measures_clean_loss else None
            decision = parts.update.decide(BlockTrial(probe, found.scalars, self.lr, clean_loss))
            found = Estimate((*found.scalars, *decision), found.loss)
        return found

    def projected_grads(self, record: StepRecord) -> tuple[float, ...]:
        """Return the slopes along directions among a record's scalars, for logs."""
        estimator = self.parts.estimator
        blocks = self.parts.schedule.blocks(record.step, self.trainables, seed=self.seed)  # at any step, in any state
        shares = _split(blocks, record.scalars)
        return tuple(g for _, scalars in shares for g in estimator.projected_grads(self._without_decision(scalars)[0]))

    @torch.no_grad()
    def gradient_estimates(self) -> Iterator[tuple[Trainable, Tensor]]:
        """Yield the gradient estimate of the last `estimate`, for the tensors that its step will move.

        Each is of the tensor's shape, float32 (float64 for float64 weights), along the directions as they were
        measured, and may be changed; only one is made at a time. The optimizer and the weights stay as they are.

        Raises:
            UsageError: nothing is estimated, or the blocks of the step are measured at different weights.
        """
        if self._pending is None or self.parts.schedule.sequential:
            reason = "nothing is estimated" if self._pending is None else "its blocks are measured at different weights"
            raise UsageError(f"There is no gradient estimate of this step: {reason}.")
        directions = self._directions
        for index, (block, shares) in enumerate(_split(self._blocks(self.num_steps), self._pending.scalars)):
            queries = directions.queries(index, self._without_decision(shares)[0])
            for member in block.members:
                yield member.trainable, directions.lifted_estimate(member, queries)

    def recall(self, record: StepRecord) -> None:
        """Take a recorded step in place of an `estimate`: `step()` makes its update and journals nothing.

        Raises:
            UsageError: the record is not that of the next step.
        """
        if record.step != self.num_steps:
            raise UsageError(f"Cannot replay step {record.step}: the next step of this optimizer is {self.num_steps}.")
        self._begin_step()
        blocks = self._blocks(record.step)
        if self.parts.schedule.sequential:
            for index, (block, scalars) in enumerate(_split(blocks, record.scalars)[:-1]):
                self._refresh(block)
                self._move(block, index, scalars, record.lr)
        self._pending, self._pending_is_recorded = record, True

    def replay(self, record: StepRecord) -> None:
        """Make the update of a recorded step again, without data or a forward pass.

        Raises:
            UsageError: the record is not that of the next step.
        """
        self.recall(record)
        self._pending = None
        with hold_interrupts():
            self._apply(record)

    @torch.inference_mode(False)
    @torch.no_grad()
    def report(self, metric: float) -> None:
        """Tell the schedule a metric of the current weights on dev rows, the smaller the better.

        Few schedules listen (`follows_metrics`), to whom it is reported after each evaluation, as `ZOTrainer` does. A
        replay does without: what a schedule makes of it joins the records of the steps.
        """
        self.parts.schedule.report(float(metric), self.tensor_states)

    @torch.inference_mode(False)  # state made by a caller in inference mode could not be changed outside of it
    @torch.no_grad()
    def _apply(self, record: StepRecord) -> None:
        self.parts.schedule.absorb(record.step, record.observation, self.tensor_states, seed=self.seed)
        blocks = self._blocks(record.step)
        first = len(blocks) - 1 if self.parts.schedule.sequential else 0
        for index, (block, scalars) in list(enumerate(_split(blocks, record.scalars)))[first:]:
            self._move(block, index, scalars, record.lr)
        self.num_steps += 1
        self.num_bad_steps = 0 if record.accepted else self.num_bad_steps + 1
        self.last_record = record

    @torch.inference_mode(False)
    @torch.no_grad()
    def _begin_step(self) -> None:
        """Let the schedule look at the weights, and the space where a new epoch begins."""
        epoch = self.parts.space.epoch(self.num_steps)
        if epoch != self._epoch:
            self.parts.space.begin_epoch(self.tensor_states, seed=self.seed, epoch=epoch)
            self._epoch = epoch
        if not self._moved:
            self.parts.schedule.begin_step(self.num_steps, self.tensor_states)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _refresh(self, block: Block) -> None:
        """Express the state of these tensors in the basis of the present epoch."""
        space = self.parts.space
        facts = (*space.state_names, *self.parts.schedule.state_names)
        epoch = space.epoch(self.num_steps)
        for member in block.members:
            state = self.tensor_states[member.trainable]
            fixed = {name: tensor for name, tensor in state.tensors.items() if name in facts}
            if len(state.tensors) > len(fixed) and state.epoch != epoch:
                transport = partial(
                    space.transport, member.trainable, seed=self.seed, old_epoch=state.epoch, new_epoch=epoch
                )
                own = {**self.parts.direction.refresh(state.tensors, transport), **fixed}
                rest = {name: tensor for name, tensor in state.tensors.items() if name not in own}
                state.tensors, state.epoch = {**self.parts.update.refresh(rest, transport), **own}, epoch

    @torch.inference_mode(False)
    @torch.no_grad()
    def _move(self, block: Block, index: int, scalars: tuple[float, ...], lr: float) -> None:
        """Update the tensors of one block."""
        self._refresh(block)
        parts, step, directions = self.parts, self.num_steps, self._directions
        scalars, decision = self._without_decision(scalars)
        queries = directions.queries(index, scalars)
        keys = [query.key for query in queries]
        for member in block.members:
            trainable, state = member.trainable, self.tensor_states[member.trainable]
            shape = parts.space.coordinate_shape(trainable)
            advance = partial(
                parts.direction.advance, trainable, state, keys=keys, step=step, coordinate_shape=shape, scalars=scalars
            )
            if parts.direction.advances_first:
                advance()
            draws, estimate = directions.estimate(member, queries)
            change = parts.update.apply(
                UpdateContext(
                    member=member,
                    lr=lr * member.lr,
                    estimate=estimate,
                    state=state,
                    coordinate_shape=shape,
                    draws=draws,
                    scalars=scalars,
                    decision=decision,
                )
            )
            if change.scale != 1.0 or not change.step.is_zero:
                parts.space.add(
                    trainable,
                    change.step.masked(estimate.mask),
                    out=trainable.parameter,
                    base=trainable.parameter,
                    seed=self.seed,
                    epoch=directions.epoch,
                    scale=change.scale,
                    rounding=Noise(keys[0], trainable.stream, Purpose.UPDATE_ROUNDING),
                    rows=parts.schedule.rows(trainable, state, step=step, seed=self.seed),
                )
            del draws, estimate, change  # their tensors, before others are made
            if not parts.direction.advances_first:
                advance()
            state.num_updates += 1
            state.epoch = directions.epoch

    @property
    def _directions(self) -> StepDirections:
        """What is drawn, masked and estimated in the next step."""
        return StepDirections(self.parts, self.tensor_states, self.seed, self.num_steps)

    def _blocks(self, step: int) -> Sequence[Block]:
        schedule, states = self.parts.schedule, self.tensor_states
        blocks = schedule.blocks(step, self.trainables, seed=self.seed)
        return [Block(tuple(schedule.member(m, states[m.trainable]) for m in block.members)) for block in blocks]

    def _without_decision(self, scalars: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Part a block's scalars into those of the estimator and the update's decision."""
        count = len(scalars) - self.parts.update.num_decisions
        return scalars[:count], scalars[count:]

    # ---------------------------------------------------------------- journal

    def record_to(self, path: str | Path, run: Mapping[str, Any] | None = None) -> None:
        """Write every step to a new journal at `path`, before its update is made.

        The file is created at the first step, when the engine is known; `run` joins its header.

        Raises:
            JournalError: at the first step, if the file exists.
        """
        self._journal_to_create = (Path(path), dict(run or {}))

    def continue_journal(self, journal: JournalWriter) -> None:
        """Append the steps to come to a journal that was reopened."""
        self._journal = journal

    @property
    def journal(self) -> JournalWriter | None:
        """The journal of this run; None before the first step, and where none was asked for."""
        return self._journal

    def _create_journal(self) -> None:
        if self._journal_to_create is not None:
            path, run = self._journal_to_create
            self._journal = JournalWriter.create(path, {**self.describe(), **run})
            self._journal_to_create = None

    def describe(self) -> dict[str, Any]:
        """Return what decides the bits of a run, ready for JSON: the header of its journal."""
        return {
            "noise_version": noise.VERSION,
            "seed": self.seed,
            "method": self.method,
            "parts": self.parts.describe(),
            "engine": self.engine_name,
            "num_threads": torch.get_num_threads(),
            "parameters": [
                {
                    "name": trainable.name,
                    "shape": list(trainable.shape),
                    "dtype": str(trainable.parameter.dtype).removeprefix("torch."),
                }
                for trainable in self.trainables
            ],
        }

    # ---------------------------------------------------------------- state

    @property
    def state_bytes(self) -> int:
        """Bytes of optimizer state the method keeps between steps, as its parts declare them."""
        return state_bytes(self.parts, self.trainables)

    def state_dict(self) -> dict[str, Any]:
        """Return step counters, settings and state tensors (by parameter name, in their own dtype)."""
        return {
            "num_steps": self.num_steps,
            "num_bad_steps": self.num_bad_steps,
            "epoch": self._epoch,
            "param_groups": [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups],
            "state": {
                trainable.name: {
                    "num_updates": state.num_updates,
                    "epoch": state.epoch,
                    "tensors": dict(state.tensors),
                }
                for trainable, state in self.tensor_states.items()
            },
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; tensors are copied to each parameter's device, facts to the CPU.

        Raises:
            IncompatibleError: the state is of a model with other trainable tensors.
        """
        ours, theirs = {trainable.name for trainable in self.trainables}, set(state_dict["state"])
        if ours != theirs:
            example = sorted(ours ^ theirs)[0]
            raise IncompatibleError(f"The optimizer state is of another model: '{example}' is only in one of the two.")
        self.num_steps = int(state_dict["num_steps"])
        self.num_bad_steps = int(state_dict["num_bad_steps"])
        self._epoch = int(state_dict["epoch"])
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
        for trainable, state in self.tensor_states.items():
            saved = state_dict["state"][trainable.name]
            state.num_updates, state.epoch = int(saved["num_updates"]), int(saved["epoch"])
            # what a space decides by is read at every perturbation, and an accelerator would have to be waited for
            device = dict.fromkeys(self.parts.space.state_names, torch.device("cpu"))
            state.tensors = {
                name: tensor.to(device.get(name, trainable.parameter.device), copy=True)
                for name, tensor in saved["tensors"].items()
            }
        self._moved, self._pending = [], None


def state_bytes(parts: Parts, trainables: Sequence[Trainable]) -> int:
    """Return the bytes of state that these parts keep between steps for these tensors, as they declare them."""
    total = 0
    for trainable in trainables:
        shape = parts.space.coordinate_shape(trainable)
        count = sum(part.num_state_elements(trainable, shape) for part in (parts.update, parts.direction))
        count += sum(part.num_state_elements(trainable) for part in (parts.space, parts.schedule))
        total += count * trainable.compute_dtype.itemsize
    return total


def _split(blocks: Sequence[Block], scalars: tuple[float, ...]) -> list[tuple[Block, tuple[float, ...]]]:
    """Pair each block with its share of a step's scalars (every block has the same number)."""
    count = len(scalars) // len(blocks)
    return [(block, scalars[index * count : (index + 1) * count]) for index, block in enumerate(blocks)]
