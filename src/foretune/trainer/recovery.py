"""After a crash: newest whole checkpoint + replay of the journal's tail = the run as it stood."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from foretune.errors import JournalError, UsageError
from foretune.journal import EvaluationRecord, Journal, JournalWriter, Record, StepRecord, check_header
from foretune.trainer import checkpoint as files
from foretune.trainer.metrics_log import log_line

if TYPE_CHECKING:
    from foretune.trainer.trainer import ZOTrainer

logger = logging.getLogger(__name__)

RECOVERED_NAME = ".recovered"


def recover(
    trainer: ZOTrainer, path: Path, header: dict[str, Any], chosen: Path | None
) -> tuple[Path | None, list[Record]]:
    """Bring the trainer's model and optimizer to where the journal at `path` ends, and reopen the journal.

    The last step is made again unless its checkpoint is whole: its log line, evaluation or checkpoint may have
    been cut off with it.

    Args:
        trainer: With the base model loaded and the optimizer created.
        header: What the run would write into a new journal.
        chosen: Checkpoint folder to go back to; None for the newest.
    Returns:
        A folder from which the Trainer's own resume starts (None at step 0), and the records that stand.
    Raises:
        JournalError: the journal is corrupt, was begun with other settings, or lacks steps of the checkpoint.
        UsageError: `chosen` is no whole checkpoint of this run.
    """
    optimizer, output_dir = trainer.zo_optimizer, path.parent
    assert optimizer is not None
    journal = Journal.read(path)
    check_header(journal.header, {**optimizer.describe(), **header}, ignore=("engine", "foretune_version"))
    optimizer.engine_name = journal.header["engine"]  # a run stays with the engine it began with

    steps = journal.steps
    whole = files.whole_checkpoints(output_dir)
    _remove_interrupted(output_dir, {folder for _, folder in whole})
    if chosen is not None:
        whole = [(step, folder) for step, folder in whole if folder.resolve() == chosen.resolve()]
        if not whole:
            raise UsageError(f"{chosen} is no whole checkpoint of the run in {output_dir}.")
    start, folder = whole[-1] if whole else (0, None)
    if start > len(steps):
        raise JournalError(f"{path} ends at step {len(steps)}, before checkpoint {folder}: it is not this run's journal.")
    end = start if chosen is not None else max(start, len(steps) - 1)

    if folder is not None:
        trainer.load_weights(folder)
        optimizer.load_state_dict(files.load_optimizer(folder))
    for record in steps[start:end]:
        optimizer.replay(record)
    writer = JournalWriter.reopen(path)
    writer.drop_after(end)
    optimizer.continue_journal(writer)
    records = Journal.read(path).records
    logger.info("Recovered step %d: checkpoint at %d, %d steps replayed.", end, start, end - start)
    if end == 0:
        return None, records
    return _write_recovered(trainer, output_dir, folder, end, records), records


def _remove_interrupted(output_dir: Path, whole: set[Path]) -> None:
    for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if folder not in whole:
            shutil.rmtree(folder)


def _write_recovered(
    trainer: ZOTrainer, output_dir: Path, folder: Path | None, end: int, records: list[Record]
) -> Path:
    """Write the Trainer's own state as it was after `end` steps; weights and optimizer are already in memory."""
    recovered = output_dir / RECOVERED_NAME
    shutil.rmtree(recovered, ignore_errors=True)
    recovered.mkdir()
    state = TrainerState() if folder is None else TrainerState.load_from_json(str(folder / files.TRAINER_STATE))
    if folder is not None:
        for name in (files.SCHEDULER_STATE, files.RANDOM_STATE):
            shutil.copy(folder / name, recovered / name)
    saved_step = state.global_step
    state.train_batch_size = trainer.args.per_device_train_batch_size
    trainer.state = state
    waiting: list[StepRecord] = []
    interval = max(1, int(trainer.args.logging_steps))
    for record in records:
        if isinstance(record, EvaluationRecord):
            if record.step > saved_step:
                state.global_step = record.step
                state.log_history.append({**record.metrics, "step": record.step})
                if trainer.args.metric_for_best_model is not None:
                    trainer._determine_best_metric(record.metrics, trial=None)
            continue
        waiting.append(record)
        if (record.step + 1) % interval == 0:
            if record.step + 1 > saved_step:
                state.log_history.append({**log_line(waiting), "step": record.step + 1})
            waiting.clear()
    state.global_step = end
    state.epoch = end / trainer.steps_per_epoch()
    state.save_to_json(str(recovered / files.TRAINER_STATE))
    return recovered
