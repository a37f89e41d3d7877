"""A folder that a command is given as a model: a finished run, whose settings say how its rows are read, or a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretune.data.own import OWN_KEYS
from foretune.errors import UsageError
from foretune.runs.loading import holds_model
from foretune.runs.output import CONFIG_NAME, RESULTS_NAME
from foretune.trainer.checkpoint import checkpoint_folders
from foretune.trainer.publishing import FINAL_NAME
from foretune.trainer.snapshots import RUN_NAME
from foretune.trainer.trainer import JOURNAL_NAME
from foretune.user_yaml import read_yaml

_OF_ROWS = ("task", *OWN_KEYS, "data_dir", "template", "objective", "shots", "num_eval", "train_set_seed")
"""Settings of a run that say which rows are read, and how they are shown to a model."""
_OF_ANY_ROWS = ("max_length", "eval_batch_size", "dtype")
_OF_TRAINING_ROWS = ("num_train", "num_dev")
_FUNCTIONS = ("objective", "metric")
"""Settings that may name a function of a file, which is run to load it."""
_FILES = (".csv", ".jsonl", ".parquet", ".yaml", ".yml")
"""Endings of what a run reads rows from, or a task, where that is a file."""
NAMED = ("task", "data", "eval_data", "data_dir", "baseline", "demonstration_sets", *_FUNCTIONS)
"""Options of `foretune evaluate` that decide which settings of a run are taken."""


def final_model(model: str) -> str:
    """Return the folder of a run's final model; a folder with a model, and what is no folder here, as it is.

    Raises:
        UsageError: the folder is that of a run that has no final model yet, or keeps none; or it is neither a run nor
            a model.
    """
    folder = Path(model)
    if not folder.is_dir() or holds_model(folder):
        return model
    final = folder / FINAL_NAME
    finished = (folder / RESULTS_NAME).is_file()
    if holds_model(final) and (finished or not _is_run(folder)):
        return str(final)
    if finished:
        raise UsageError(f"--model {model} is a run that keeps no model (--task synthetic); give another.")
    if not _is_run(folder):
        raise UsageError(
            f"--model {model}: the folder is neither a run (it has no {RESULTS_NAME}) nor a saved model (it has no "
            "config.json, and no adapter_config.json)."
        )
    checkpoints = checkpoint_folders(folder)
    instead = f", or give a checkpoint: {checkpoints[-1]}" if checkpoints else ""
    raise UsageError(
        f"--model {model} is a run that is not finished (it has no {RESULTS_NAME}): go on with it by the command that "
        f"began it and --resume{instead}."
    )


def evaluation_settings(model: str, given: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the settings with which the model of a run is evaluated on the run's own rows, as the run did.

    Code is not run because a folder names it: `trust_remote_code` is left out, and functions must be named again.

    Args:
        model: A run's folder, or a model's with the configuration of a run beside it; {} for any other.
        given: What the command line says of `NAMED`; rows other than the run's are not read by its settings.
    Raises:
        UsageError: the configuration cannot be read, or names a function, or files that are not here.
    """
    path = Path(model) / CONFIG_NAME
    if not path.is_file():
        return {}
    settings = read_yaml(path, f"--model {model}: {path}")
    if not isinstance(settings, dict):
        raise UsageError(f"--model {model}: {path} is not the configuration of a run.")
    names = list(_OF_ANY_ROWS)
    if all(given[name] in (None, settings.get(name)) for name in ("task", "data")):
        names += _OF_ROWS
        names += _OF_TRAINING_ROWS if given["baseline"] is not None else ()
    own_draws = {"train_set_seed"} if given["demonstration_sets"] is not None else set()
    found = {name: settings[name] for name in names if settings.get(name) is not None and name not in own_draws}
    for name in _FUNCTIONS:
        if ":" in str(found.get(name, "")) and given[name] is None:
            raise UsageError(
                f"--model {model}: the run's --{name} is the function {found[name]}; it is run only where you name it: "
                f"--{name} {found[name]}."
            )
    for name in ("task", "data", "eval_data", "data_dir"):
        place = str(found.get(name, ""))
        is_path = name == "data_dir" or place.endswith(_FILES)
        if place and is_path and given[name] is None and not Path(place).exists():
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"--model {model}: the run was given {option} {place}, which is not here: give {option}.")
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (JOURNAL_NAME, RUN_NAME, RESULTS_NAME))
