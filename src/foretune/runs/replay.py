"""Rebuild a run's tuned model from its journal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from foretune.adapters import make_tuning
from foretune.errors import CheckpointError, JournalError, UsageError
from foretune.journal import Journal, replay
from foretune.methods import method_of_description
from foretune.optimizer import Optimizer
from foretune.runs.config import ReplayConfig
from foretune.runs.loading import load_config, load_model, load_tokenizer, model_kind, resolve_device, resolve_dtype
from foretune.runs.output import recorded_method
from foretune.trainer.checkpoint import save_model, writing
from foretune.trainer.publishing import FINAL_NAME
from foretune.trainer.snapshots import RUN_NAME
from foretune.trainer.trainer import JOURNAL_NAME


def replay_run(config: ReplayConfig) -> int:
    """Write the model that a run's journal describes; return the number of updates replayed.

    Raises:
        UsageError: an option is wrong, or the run has no journal.
        JournalError: the journal is corrupt, not of a run of `foretune train`, or of another base model.
    """
    config.check()
    path = Path(config.run)
    if (path / RUN_NAME).is_file():
        raise UsageError(
            f"{path} cannot be replayed: it is a run of '{recorded_method(path)}', whose gradients no journal keeps. "
            f"Its model is {path / FINAL_NAME}, and --resume goes on with it from its checkpoints."
        )
    journal = Journal.read(path / JOURNAL_NAME if path.is_dir() else path)
    header = journal.header
    if "origin" not in header:
        raise JournalError(f"{journal.path} names no base model: it was not written by 'foretune train'.")
    base = header["origin"]
    name, revision = config.model or base["model"], config.revision or (None if config.model else base["revision"])
    num_steps = selected_step(journal) if config.step is None else config.step
    if num_steps > len(journal.steps):
        raise UsageError(f"--step {num_steps}: the journal holds {len(journal.steps)} steps.")
    device = resolve_device(config.device)
    loading: dict[str, Any] = {"revision": revision, "trust_remote_code": config.trust_remote_code}
    try:
        kind = model_kind(load_config(name, **loading))
        tokenizer = load_tokenizer(name, **loading)
        model = load_model(name, dtype=resolve_dtype(base["dtype"], device), device=device, kind=kind, **loading)
    except UsageError as error:
        if config.model is not None:
            raise
        raise UsageError(
            f"The base model that {journal.path} names is not there: {error} Say where: --model."
        ) from error
    model = make_tuning(header["config"]["tuning"]).attach(model, seed=header["seed"], revision=revision)
    method = method_of_description(header["method"])
    optimizer = Optimizer(model, **method.optimizer_arguments(), seed=header["seed"])
    replay(optimizer, journal, num_steps=num_steps)
    output = Path(config.output)
    try:
        with writing(output, then="replay again"):
            save_model(model, output)
            tokenizer.save_pretrained(output)
    except CheckpointError:
        shutil.rmtree(output, ignore_errors=True)  # it was empty or not there
        raise
    return num_steps


def selected_step(journal: Journal) -> int:
    """Return the number of updates of the run's final model: the best evaluation's, or all."""
    metric = journal.header.get("selection_metric")
    if metric is None or not journal.evaluations:
        return len(journal.steps)
    # the first of equal values, as the Trainer keeps it
    return min(journal.evaluations, key=lambda record: record.metrics[metric]).step
