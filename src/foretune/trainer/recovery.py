"""Where an interrupted run goes on: the newest whole checkpoint, and the journal's records behind it."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from foretune.errors import JournalError, UsageError
from foretune.journal import EvaluationRecord, Journal, Record, RollbackRecord, StepRecord
from foretune.trainer import checkpoint as files

logger = logging.getLogger(__name__)


class History:
    """The journal's records, with a place in them: before it lies what was done, behind it what to repeat.

    A resumed run goes through the Trainer's loop again from its checkpoint. As long as records lie ahead,
    steps and evaluations take their figures from them instead of from a forward pass, so that logs,
    callbacks, schedule, best checkpoint and everything else the loop keeps come out as they were.
    """

    def __init__(self, records: Sequence[Record] = (), place: int = 0) -> None:
        self.records = list(records)
        self.place = place

    @property
    def repeating(self) -> bool:
        """Whether there are records ahead."""
        return self.place < len(self.records)

    def skip_to_step(self) -> list[EvaluationRecord | RollbackRecord]:
        """Pass what precedes the next step and return it: rollbacks, and evaluations for which nobody asked again."""
        skipped = []
        while self.repeating and not isinstance(record := self.records[self.place], StepRecord):
            skipped.append(record)
            self.place += 1
        return skipped

    def next_step(self) -> StepRecord | None:
        """Pass the next step's record, if any lies ahead; what precedes it is skipped."""
        self.skip_to_step()
        if not self.repeating:
            return None
        record = self.records[self.place]
        assert isinstance(record, StepRecord)
        self.place += 1
        return record

    def next_evaluation(self, step: int, prefix: str) -> EvaluationRecord | None:
        """Pass the next record if it is an evaluation after `step` steps, with metrics of this prefix."""
        record = self.records[self.place] if self.repeating else None
        if not isinstance(record, EvaluationRecord) or record.step != step:
            return None
        if not all(name.startswith(f"{prefix}_") for name in record.metrics):
            return None
        self.place += 1
        return record

    def add(self, record: Record) -> None:
        """Append what has just been done for the first time."""
        assert not self.repeating
        self.records.append(record)
        self.place += 1

    def steps_done(self, first: int) -> list[StepRecord]:
        """Return the steps done, from step number `first` on."""
        done = self.records[: self.place]
        return [record for record in done if isinstance(record, StepRecord) and record.step >= first]

    @property
    def rollbacks(self) -> list[RollbackRecord]:
        """How often, and why, the run went back."""
        return [record for record in self.records if isinstance(record, RollbackRecord)]


def refuse_existing(path: Path, *, resume: Any, what: str = "journal") -> None:
    """Refuse to begin a run in a folder that holds one.

    Args:
        path: Where the run's journal, or what stands for it, would be.
        resume: What the Trainer was told about resuming.
        what: What `path` is.
    Raises:
        JournalError: the folder holds a journal, or checkpoints without one.
        UsageError: a checkpoint to go back to was named, but there is no journal.
    """
    if path.exists():
        raise JournalError(f"{path} exists: resume that run (resume_from_checkpoint=True) or choose another folder.")
    if resume and resume is not True:
        raise UsageError(f"{resume} cannot be resumed: there is no {what} {path}.")
    leftovers = files.checkpoint_folders(path.parent)
    if leftovers:
        raise JournalError(f"{leftovers[-1]} exists, but not the {what} {path}: choose another folder.")


def find_checkpoint(journal: Journal, chosen: Path | None) -> tuple[Path | None, int]:
    """Pick the checkpoint from which a run goes on, and clear away those that it will write again.

    Args:
        journal: The run's journal; its checkpoints lie beside it.
        chosen: A checkpoint to go back to; None for the newest.
    Returns:
        The folder (None: begin with the base model), and how many records precede it.
    Raises:
        JournalError: the journal ends before the checkpoint.
        UsageError: `chosen` is no whole checkpoint of this run.
    """
    start = choose_checkpoint(journal.path.parent, chosen)
    place = 0 if start is None else files.JournalPlace.load(start).num_records
    if place > len(journal.records):
        raise JournalError(
            f"{journal.path} holds {len(journal.records)} records, but {start} was written after {place}: it "
            "is not the journal of this run, or was cut. Without that folder the run goes on from what it holds."
        )
    clear_checkpoints(journal.path.parent, start, goes_back=chosen is not None)
    return start, place


def choose_checkpoint(output_dir: Path, chosen: Path | None) -> Path | None:
    """Return the newest checkpoint that a run can go on from, or `chosen`; None if there is none.

    Raises:
        UsageError: `chosen` is no whole checkpoint of this run.
    """
    usable = [folder for folder in files.checkpoint_folders(output_dir) if files.is_resumable(folder)]
    if chosen is not None:
        usable = [folder for folder in usable if folder.resolve() == chosen.resolve()]
        if not usable:
            raise UsageError(f"{chosen} is no whole checkpoint of the run in {output_dir}.")
    return usable[-1] if usable else None


def sound_checkpoint(output_dir: Path, *, before: float = math.inf, tried: Collection[int] = ()) -> Path | None:
    """Return the newest checkpoint, that of the beginning included, to go back to if a run diverges; None without one.

    It was written when the run showed no sign of diverging, and the best checkpoint that it knows is still there.

    Args:
        output_dir: The run's folder.
        before: The step at which the trouble was noticed.
        tried: Steps the run has gone back to in vain: where the weights were spoiled already, a smaller lr is no help.
            It may go back to its beginning again.
    """

    def is_sound(folder: Path) -> bool:
        step = files.step_of(folder)
        if step >= before or (step in tried and step > 0):
            return False
        if not files.is_resumable(folder) or not files.JournalPlace.load(folder).is_sound:
            return False
        best = files.read_json(folder / files.TRAINER_STATE).get("best_global_step")
        return not best or (output_dir / f"{PREFIX_CHECKPOINT_DIR}-{best}").is_dir()

    folders = [*files.checkpoint_folders(output_dir / files.BEGINNING), *files.checkpoint_folders(output_dir)]
    return next(filter(is_sound, reversed(folders)), None)


def clear_checkpoints(output_dir: Path, start: Path | None, *, goes_back: bool) -> None:
    """Remove the checkpoints that a run will write again.

    Args:
        output_dir: The run's folder.
        start: Where it goes on.
        goes_back: Whether `start` is not the newest: what lies ahead of it is removed, too.
    """
    folders = files.checkpoint_folders(output_dir)
    stays = files.step_of(start) if goes_back and start is not None else math.inf
    ahead = [folder for folder in folders if files.step_of(folder) > stays]
    for folder in {*ahead, *(folder for folder in folders if not files.is_whole(folder))}:
        logger.info("Removing %s: interrupted, or ahead of the checkpoint to go back to.", folder)
        files.remove(folder)
