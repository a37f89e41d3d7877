"""Rebuild tuned weights from base weights and a journal: no data, no forward pass."""

from __future__ import annotations

from typing import Any, Protocol

from foretune.errors import JournalError
from foretune.journal.header import check_header
from foretune.journal.reader import Journal
from foretune.journal.record import StepRecord
from foretune.journal.weights import hash_weights


class Replayable(Protocol):
    """An optimizer at step 0 on the base model."""

    model: Any

    def describe(self) -> dict[str, Any]:
        """Return what decides the bits of a run."""
        ...

    def replay(self, record: StepRecord) -> None:
        """Make the update of one recorded step."""
        ...


def replay(optimizer: Replayable, journal: Journal, *, num_steps: int | None = None) -> int:
    """Apply the first `num_steps` recorded updates (all of them by default) to the optimizer's model.

    The result is bit-equal to the run's weights on the same kind of device, and for methods whose state goes
    through matrix products also with the same number of threads (the header names it).

    Returns:
        The number of updates made.
    Raises:
        JournalError: the model is not the one the run began with (by the hash of its weights), the optimizer has
            other settings than the run, or the journal has fewer steps than asked for.
    """
    check_header(journal.header, optimizer.describe(), ignore=(*(set(journal.header) - set(optimizer.describe())), "engine"))
    expected = journal.header.get("weights_hash")
    if expected is not None and (found := hash_weights(optimizer.model.named_parameters())) != expected:
        raise JournalError(
            f"{journal.path} began with other weights: their hash is {expected[:12]}, this model's {found[:12]}. "
            "Give the base model of the run, in the dtype of the run."
        )
    steps = journal.steps
    if num_steps is not None and num_steps > len(steps):
        raise JournalError(f"{journal.path} holds {len(steps)} steps, fewer than the {num_steps} asked for.")
    for record in steps[:num_steps]:
        optimizer.replay(record)
    return len(steps[:num_steps])
