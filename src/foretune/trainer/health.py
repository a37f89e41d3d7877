"""Whether a run learns: findings with a cause, the numbers and a remedy, from the records of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, median, variance

from foretune.journal import EvaluationRecord, Record, StepRecord
from foretune.norms import norm
from foretune.optimizer import MAX_BAD_STEPS
from foretune.types import Trainable

WINDOW = 50
"""Steps that are looked at together."""
NUM_FIRST = 5
"""Losses that stand for the beginning of a run that explodes before it has made `WINDOW` steps."""
MAX_GROWTH = 100.0
"""Norm of the trained weights, against that of the beginning, above which they have exploded."""
MIN_SIGNAL = 16.0
"""Loss difference, in units of the loss's rounding, below which rounding is what is measured."""
MIN_STEPS = 200
"""Steps before anything is said about the trend of the loss."""
SMALL_TREND = 0.02
"""Relative decline of the training loss that must be excluded to call it flat, where there are no dev rows."""
SMALL_DEV_RANGE = 1e-3
"""Relative range of at least three dev losses that did not move."""
MAX_RISE = 4.0
"""Standard errors by which the mean loss must have risen to say so."""
FLOAT32_RESOLUTION = 2.0**-24
"""Relative rounding error of a loss computed in float32."""

ProjectedGrads = Callable[[StepRecord], Sequence[float]]
"""Tells which of a record's scalars are projected gradients (`Optimizer.projected_grads`)."""


class Cause(StrEnum):
    """Why a run does not learn."""

    NON_FINITE_LOSS = "non_finite_loss"
    EXPLODING_LOSS = "exploding_loss"
    EXPLODING_WEIGHTS = "exploding_weights"
    ZERO_GRADIENT = "zero_projected_gradient"
    DEAD_SIGNAL = "dead_signal"
    FLAT_LOSS = "flat_loss"
    RISING_LOSS = "rising_loss"

    @property
    def depth(self) -> int:
        """0 where the run gets worse and worse, 1 where it has no signal, 2 for what may have either reason."""
        if self in (Cause.NON_FINITE_LOSS, Cause.EXPLODING_LOSS, Cause.EXPLODING_WEIGHTS):
            return 0
        return 1 if self in (Cause.ZERO_GRADIENT, Cause.DEAD_SIGNAL) else 2

    @property
    def diverges(self) -> bool:
        """Whether the run gets worse and worse, upon which its policy acts."""
        return self.depth == 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a run.

    Attributes:
        step: Steps made when it was noticed.
        numbers: What was measured, as a clause.
        remedy: What to change, as a sentence without its full stop; empty where the numbers say it.
    """

    cause: Cause
    step: int
    numbers: str
    remedy: str

    def __str__(self) -> str:
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{self.cause} after {self.step} steps: {self.numbers}{remedy}"


class HealthWatch:
    """Looks at the records of a run, in order, and says once of each cause that it has set in.

    Its findings are a function of the records, so a resumed run has those of an uninterrupted one. What an earlier
    finding explains is not said: a run that explodes has a rising loss, one without a signal a flat one.

    - non_finite_loss: `MAX_BAD_STEPS` steps in a row, as the optimizer counts them.
    - exploding_loss: the median of the last 50 losses is above the median m of the first 5 by more than |m|, and
      either that median is above each of the first 50 losses, or each of the last 50 is above each of the first 5.
      Ranks need no assumption about the losses: of a run whose losses do not change, the first has a chance of
      5e-10 and the second one of 3e-7 at a look. The second is for runs that explode within the first 50 steps.
    - zero_projected_gradient: exactly 0 in 50 steps with a finite loss that is not 0.
    - dead_signal: the rms loss difference of 50 steps is below 16 roundings of the loss. With a model of 4 M parameters
      rounding alone made a difference of 6.
    - flat_loss, asked in the later half after at least 200 steps: the mean loss of the last third of all steps is
      within two standard errors of that of the first, and at least three dev losses lie within a thousandth of each
      other or, without dev losses, two standard errors above the decline there is less than 2 % in the whole run, at
      that pace. (Dev rows are the same each time, so their loss has no noise.) A run that has too few steps to tell is
      not called flat.
    - rising_loss, asked at the same time: the mean loss of the last third is above that of the first 50 steps by four
      standard errors.

    Args:
        total_steps: Steps of the whole run.
        projected_grads: Tells slopes among a record's scalars.
        resolution: Relative rounding error of the loss.
    """

    def __init__(
        self,
        total_steps: int,
        projected_grads: ProjectedGrads = lambda record: (),
        *,
        resolution: float = FLOAT32_RESOLUTION,
    ) -> None:
        self._total_steps = total_steps
        self._trend_steps = {math.ceil(total_steps * share) for share in (0.5, 0.75, 1.0)}
        self._projected_grads = projected_grads
        self._resolution = resolution
        self.losses: list[float] = []
        """Of all steps; infinite where they were not finite."""
        self._dev_losses: list[float] = []
        self._num_bad = 0
        self._block_losses: list[float] = []
        self._block_slopes: list[float] = []
        self._last: StepRecord | None = None
        self._known: set[Cause] = set()

    def add(self, record: Record) -> list[Finding]:
        """Take the next record; return what it shows for the first time."""
        if isinstance(record, StepRecord):
            found = self._add_step(record)
        elif isinstance(record, EvaluationRecord):
            found = self._add_evaluation(record)
        else:
            found = []
        return self._new(found)

    def add_growth(self, growth: float) -> list[Finding]:
        """Take the norm of the trained weights, as they are now, in units of that of the beginning."""
        if growth <= MAX_GROWTH:
            return []
        numbers = f"the norm of the trained weights is {growth:.3g} times that of the beginning"
        return self._new([self._finding(Cause.EXPLODING_WEIGHTS, numbers, self._lower_lr)])

    def _new(self, found: list[Finding]) -> list[Finding]:
        deepest = min((cause.depth for cause in self._known), default=2)  # which explains the others
        new = [finding for finding in found if finding.cause not in self._known and finding.cause.depth <= deepest]
        self._known |= {finding.cause for finding in new}
        return new

    def _finding(self, cause: Cause, numbers: str, remedy: str) -> Finding:
        return Finding(cause, len(self.losses), numbers, remedy)

    @property
    def _lower_lr(self) -> str:
        return "Lower lr" if self._last is None else f"Lower lr ({self._last.lr:g})"

    # ---------------------------------------------------------------- steps

    def _add_step(self, record: StepRecord) -> list[Finding]:
        self._last = record
        self._num_bad = 0 if record.accepted else self._num_bad + 1
        self.losses.append(record.loss if math.isfinite(record.loss) else math.inf)
        return [*self._diverging(record), *self._signal(record), *self._trend_at_marks()]

    def _diverging(self, record: StepRecord) -> list[Finding]:
        if self._num_bad >= MAX_BAD_STEPS:
            numbers = f"the loss is {record.loss}, and was not finite in {self._num_bad} steps in a row"
            return [self._finding(Cause.NON_FINITE_LOSS, numbers, self._lower_lr)]
        first, last = self.losses[:NUM_FIRST], self.losses[NUM_FIRST:][-WINDOW:]
        if len(last) < WINDOW:
            return []
        before, now = median(first), median(last)
        is_far = now - before > abs(before)
        above_all = len(self.losses) >= 2 * WINDOW and now > max(self.losses[:WINDOW])
        if not (is_far and (above_all or min(last) > max(first))):
            return []
        numbers = f"the median of the last {WINDOW} losses is {now:.4g}, that of the first {NUM_FIRST} was {before:.4g}"
        return [self._finding(Cause.EXPLODING_LOSS, numbers, self._lower_lr)]

    def _signal(self, record: StepRecord) -> list[Finding]:
        slopes = self._projected_grads(record)
        if not (slopes and record.accepted):
            return []
        self._block_losses.append(record.loss)
        self._block_slopes += slopes
        if len(self._block_losses) < WINDOW:
            return []
        losses, slopes = self._block_losses, self._block_slopes
        self._block_losses, self._block_slopes = [], []
        scale = f"zo_eps ({record.zo_eps:g})" if record.zo_eps else "zo_eps"
        if not any(slopes):
            if not any(losses):
                return []  # there is nothing left to learn
            numbers = f"the loss was the same on both sides of every direction in {WINDOW} steps"
            remedy = (
                f"Raise {scale}, or see whether the loss depends on what is tuned: an objective that counts "
                "(accuracy, f1) needs a larger batch_size, too"
            )
            return [self._finding(Cause.ZERO_GRADIENT, numbers, remedy)]
        signal = signal_to_rounding(losses, [2 * record.zo_eps * slope for slope in slopes], self._resolution)
        if not record.zo_eps or signal >= MIN_SIGNAL:
            return []
        numbers = f"the loss difference of {WINDOW} steps is {signal:.2g} roundings of the loss, which are noise"
        return [self._finding(Cause.DEAD_SIGNAL, numbers, f"Raise {scale}")]

    # ---------------------------------------------------------------- trend

    def _add_evaluation(self, record: EvaluationRecord) -> list[Finding]:
        loss = record.metrics.get("eval_loss")
        if loss is None:
            return []
        self._dev_losses.append(loss)
        return self._trend() if 2 * record.step >= self._total_steps else []

    def _trend_at_marks(self) -> list[Finding]:
        return self._trend() if len(self.losses) in self._trend_steps else []

    def _trend(self) -> list[Finding]:
        count = len(self.losses)
        third = count // 3
        if count < MIN_STEPS or not all(map(math.isfinite, self.losses)):
            return []
        last = self.losses[-third:]
        rise = _Change(self.losses[:WINDOW], last)
        if rise.rise > MAX_RISE * rise.error:
            return [self._finding(Cause.RISING_LOSS, str(rise), self._lower_lr)]
        change = _Change(self.losses[:third], last)
        largest_decline = (2 * change.error - change.rise) * self._total_steps / count
        if abs(change.rise) > 2 * change.error or not self._is_known_flat(largest_decline, abs(change.before)):
            return []
        lr = "lr" if self._last is None else f"lr ({self._last.lr:g})"
        return [self._finding(Cause.FLAT_LOSS, str(change), f"Raise {lr}")]

    def _is_known_flat(self, largest_decline: float, scale: float) -> bool:
        dev = self._dev_losses
        if not dev:
            return largest_decline < SMALL_TREND * scale
        return len(dev) >= 3 and max(dev) - min(dev) < SMALL_DEV_RANGE * abs(dev[-1])


class _Change:
    """How the mean loss of the last steps differs from that of the first."""

    def __init__(self, first: Sequence[float], last: Sequence[float]) -> None:
        self.before, self.now = fmean(first), fmean(last)
        self.rise = self.now - self.before
        self.error = math.sqrt(variance(first) / len(first) + variance(last) / len(last))
        self._counts = len(first), len(last)

    def __str__(self) -> str:
        first, last = self._counts
        return (
            f"the mean loss of the last {last} steps is {self.now:.4g}, that of the first {first} was "
            f"{self.before:.4g}, standard error of the difference {self.error:.2g}"
        )


def is_sound(steps: Sequence[StepRecord]) -> bool:
    """Whether the last of these steps give no reason to think that trouble has begun: a place to come back to.

    Of all pairs of one of the last 50 losses and one of the first 10, at most three fifths may have risen. That is
    strict: of losses that do not change one place in six is not sound by chance, and a run goes back further than it
    had to. It would not make up for going back to weights that are spoiled.
    """
    if not all(record.accepted for record in steps[-WINDOW:]):
        return False
    first, last = steps[: 2 * NUM_FIRST], steps[2 * NUM_FIRST :][-WINDOW:]
    risen = sum(later.loss > earlier.loss for later in last for earlier in first)
    return 5 * risen <= 3 * len(first) * len(last)


class Growth:
    """The norm of tensors as they are now, in units of that which they had at first; 1 if that was 0."""

    def __init__(self, trainables: Sequence[Trainable]) -> None:
        self._trainables = trainables
        self._first = self._norm()

    def __call__(self) -> float:
        """Return the quotient."""
        return self._norm() / self._first if self._first else 1.0

    def _norm(self) -> float:
        return norm(*(trainable.parameter for trainable in self._trainables))


def signal_to_rounding(
    losses: Sequence[float], differences: Sequence[float], resolution: float = FLOAT32_RESOLUTION
) -> float:
    """Return the rms of loss differences in units of the rounding of their mean loss; 0 where that loss is 0."""
    rounding = abs(fmean(losses)) * resolution
    return math.sqrt(fmean(value * value for value in differences)) / rounding if rounding else 0.0
