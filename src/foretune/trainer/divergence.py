"""What happens when a run diverges: it ends, goes back to an earlier step with a smaller lr, or goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from foretune.errors import DivergedError, NonFiniteLossError
from foretune.journal import Journal, JournalWriter, Record, RollbackRecord
from foretune.parameters import collect_trainables
from foretune.trainer import checkpoint as files
from foretune.trainer.arguments import OnDivergence
from foretune.trainer.health import (
    FLOAT32_RESOLUTION,
    MAX_GROWTH,
    Cause,
    Finding,
    Growth,
    HealthWatch,
    ProjectedGrads,
)
from foretune.trainer.recovery import History, clear_checkpoints, sound_checkpoint

LR_FACTOR = 0.1
"""What a rollback multiplies the lr by: published grids of learning rates are powers of ten."""
MAX_ROLLBACKS = 3
"""Rollbacks before a run ends: an lr a thousand times too large is then the right one."""

logger = logging.getLogger(__name__)


class Diverging(Exception):
    """Ends the Trainer's loop when a run diverges and is not to go on."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(str(finding))


class Guard:
    """Watches a run's records and weights, warns, and ends the Trainer's loop when it diverges.

    Args:
        model: As it is before a checkpoint is loaded: growth of the weights is measured from here.
        policy: What is to happen.
    """

    def __init__(self, model: nn.Module, policy: OnDivergence) -> None:
        trainables = collect_trainables(model)
        is_double = all(trainable.parameter.dtype == torch.float64 for trainable in trainables)
        self._resolution = torch.finfo(torch.float64).eps / 2 if is_double else FLOAT32_RESOLUTION
        self._growth = Growth(trainables)
        self._policy = policy
        self._watch = HealthWatch(total_steps=0)
        self._found: list[Finding] = []

    def begin(self, total_steps: int, projected_grads: ProjectedGrads = lambda record: ()) -> None:
        """Forget all records: those of the run are to be added from the first one on."""
        self._watch = HealthWatch(total_steps, projected_grads, resolution=self._resolution)
        self._found = []

    def add(self, record: Record) -> list[Finding]:
        """Take the next record, and return what it shows for the first time."""
        found = self._watch.add(record)
        self._found += found
        return found

    def look_at_weights(self) -> None:
        """Measure the norm of the trained weights.

        Raises:
            Diverging: it has exploded, which is not to be ignored.
        """
        self.heed(self._watch.add_growth(self._growth()))

    @property
    def has_small_weights(self) -> bool:
        """Whether the norm of the trained weights is far from exploding, on a logarithmic scale at most half way."""
        return self._growth() <= MAX_GROWTH**0.5

    def heed(self, findings: Sequence[Finding]) -> None:
        """Warn, or end the loop.

        Raises:
            Diverging: the run diverges, which is not to be ignored.
        """
        for finding in findings:
            self._end_for(finding)
            logger.warning("%s.", finding)

    def heed_the_past(self) -> None:
        """End the loop if the records so far show that the run diverges; there were warnings of the rest before.

        Raises:
            Diverging: it does, which is not to be ignored.
        """
        for finding in self._found:
            self._end_for(finding)

    def _end_for(self, finding: Finding) -> None:
        # a loss that rises slowly may still fall, and is not worth ending a run, but worth a smaller lr
        goes_back = self._policy == "rollback" and finding.cause is Cause.RISING_LOSS
        if goes_back or (self._policy != "ignore" and finding.cause.diverges):
            raise Diverging(finding)


def roll_back(journal: JournalWriter, finding: Finding) -> tuple[Path, History]:
    """Go back to the newest sound checkpoint to which it did not come back before: drop what is later, and record it.

    Killed before the journal says so, a resumed run comes here again: it makes the steps that led here once more.

    Args:
        journal: Of the run; its checkpoints lie beside it.
        finding: Why.
    Returns:
        The checkpoint, and the records with its place in them, behind which lies the smaller lr.
    Raises:
        DivergedError: there is no such checkpoint, or the run has gone back too often.
    """
    output_dir = journal.path.parent
    past = Journal.read(journal.path).rollbacks
    number = len(past) + 1
    target = sound_checkpoint(output_dir, before=finding.step, tried={rollback.step for rollback in past})
    if target is None:
        raise stop_error(finding, f"There is no checkpoint in {output_dir} from before the trouble to go back to")
    if number > MAX_ROLLBACKS:
        raise stop_error(
            finding,
            f"The run went back {MAX_ROLLBACKS} times already, each time with {LR_FACTOR:g} times the lr. The newest "
            f"good checkpoint is {target}",
        )
    step = files.step_of(target)
    clear_checkpoints(output_dir, target, goes_back=True)
    # earlier ones stay, as does what they made of the lr
    dropped = [replace(rollback, step=step) for rollback in past if rollback.step > step]
    journal.go_back(step, [*dropped, RollbackRecord(step, finding.step, finding.cause, LR_FACTOR)])
    logger.warning(
        "%s. Going back to step %d with %g times the lr (%d of at most %d times).",
        finding,
        step,
        LR_FACTOR,
        number,
        MAX_ROLLBACKS,
    )
    return target, History(Journal.read(journal.path).records, files.JournalPlace.load(target).num_records)


def stop_error(finding: Finding, how_to_go_on: str) -> DivergedError:
    """Return the error that ends a run."""
    kind = NonFiniteLossError if finding.cause is Cause.NON_FINITE_LOSS else DivergedError
    return kind(f"The run diverges, {finding}. {how_to_go_on}.")


def ways_to_go_on(output_dir: Path) -> str:
    """Say what can be done with a run that was stopped."""
    target = sound_checkpoint(output_dir)
    good = "No checkpoint is from before the trouble" if target is None else f"The newest good checkpoint is {target}"
    return (
        f"{good}. Resume with on_divergence 'rollback' to go on from before the trouble with {LR_FACTOR:g} times the "
        "lr, or with 'ignore' to go on as it is"
    )
