"""Rebuild tuned weights from base weights and a journal: no data, no forward pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from foretune.errors import JournalError
from foretune.journal.header import check_header
from foretune.journal.reader import Journal
from foretune.journal.record import StepRecord
from foretune.journal.weights import hash_weights

logger = logging.getLogger(__name__)


class Replayable(Protocol):
    """An optimizer at step 0 on the base model."""

    model: nn.Module

    def describe(self) -> dict[str, Any]:
        """Return what decides the bits of a run."""
        ...

    def replay(self, record: StepRecord) -> None:
        """Make the update of one recorded step."""
        ...


def replay(optimizer: Replayable, journal: Journal, *, num_steps: int | None = None) -> int:
    """Apply the first `num_steps` recorded updates (all of them by default) to the optimizer's model.

    The result is bit-equal to the run's weights on the same kind of device; the run's number of threads, on
    which sums in a matrix product may depend, is set for the time of the replay.

    Returns:
        The number of updates made.
    Raises:
        JournalError: the model is not the one the run began with (by the hash of its weights), the optimizer
            has other settings than the run, or the journal has fewer steps than asked for.
        UsageError: the optimizer has made steps already.
    """
    settings = optimizer.describe()
    # a journal may hold more than the optimizer knows: what its writer noted about data and schedule
    found = {name: value for name, value in journal.header.items() if name in settings}
    check_header(found, settings, ignore=("engine", "num_threads"))
    check_base_weights(journal, hash_weights(optimizer.model.named_parameters()))
    steps = journal.steps
    if num_steps is not None and num_steps > len(steps):
        raise JournalError(f"{journal.path} holds {len(steps)} steps, fewer than the {num_steps} asked for.")
    steps = steps[:num_steps]
    with threads_of(journal.header):
        for record in steps:
            optimizer.replay(record)
    return len(steps)


def check_base_weights(journal: Journal, weights_hash: str) -> None:
    """Refuse a model that is not the one the run began with; a journal without a hash takes any.

    Args:
        weights_hash: `hash_weights` of the model's parameters.
    Raises:
        JournalError: both hashes, by their first digits.
    """
    expected = journal.header.get("weights_hash", weights_hash)
    if weights_hash != expected:
        raise JournalError(
            f"{journal.path} began with other weights: their hash is {expected[:12]}, this model's is "
            f"{weights_hash[:12]}. Give the base model of the run, in its dtype, and no checkpoint."
        )


@contextmanager
def threads_of(header: Mapping[str, Any]) -> Iterator[None]:
    """Give torch the number of threads that a header names: sums over many threads round otherwise than over few."""
    before = torch.get_num_threads()
    wanted = header.get("num_threads", before)
    if wanted != before:
        logger.warning("Using %d threads, as when the run began, instead of %d.", wanted, before)
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
