"""The folder of a run: what its files are called, whether it is free, and its results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from foretune.errors import CheckpointError, JournalError, UsageError
from foretune.journal import Journal
from foretune.trainer.checkpoint import checkpoint_folders
from foretune.trainer.snapshots import RUN_NAME, read_run
from foretune.trainer.trainer import JOURNAL_NAME

RESULTS_NAME = "results.json"
CONFIG_NAME = "config.yaml"


def check_output(output: Path, *, resume: bool, has_journal: bool) -> None:
    """Refuse an output folder that holds another run, or that cannot be written.

    Args:
        output: The folder.
        resume: Whether a run in it may be gone on with.
        has_journal: Whether that run would have to be one with a journal.
    Raises:
        UsageError: naming the folder and what would be right.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder.")
    taken = [name for name in (JOURNAL_NAME, RUN_NAME, RESULTS_NAME) if (output / name).exists()]
    if not taken and (leftovers := checkpoint_folders(output)):
        raise UsageError(
            f"--output {output} holds {leftovers[-1].name} and no {JOURNAL_NAME if has_journal else RUN_NAME}, so no "
            "run can be gone on with: choose another folder."
        )
    if taken and not resume:
        raise UsageError(f"--output {output} holds a run already ({taken[0]}): add --resume or choose another folder.")
    foreign = RUN_NAME if has_journal else JOURNAL_NAME
    if foreign in taken:
        kind = f"run of '{recorded_method(output)}'" if has_journal else "zeroth-order run"
        raise UsageError(f"--output {output} holds a {kind} ({foreign}): choose another folder.")
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--output {output}: {existing} is a file; choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: {existing} is not writable.")


def recorded_method(output: Path) -> str:
    """Return the name of the method of a run without a journal."""
    return read_run(output / RUN_NAME)["method"]["name"]


def make_output(output: Path) -> None:
    """Make the folder.

    Raises:
        UsageError: the system refuses.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be made: {error.strerror}.") from error


def write_results(output: Path, results: dict[str, Any]) -> None:
    """Write results.json, the whole file or nothing: it is the mark of a finished run."""
    temporary = output / f".{RESULTS_NAME}.tmp"
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(output / RESULTS_NAME)


def read_results(output: Path) -> dict[str, Any]:
    """Read what `write_results` wrote.

    Raises:
        CheckpointError: the file is damaged, or another one.
    """
    path = output / RESULTS_NAME
    try:
        results = json.loads(path.read_text())
        results["config"]["method"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not what a run writes: move it away, and --resume makes it again.") from error
    return results


def begun_with(output: Path) -> dict[str, Any] | None:
    """Return the settings that the run in a folder began with; None if there is no run.

    Raises:
        CheckpointError: they cannot be read.
        JournalError: nor can those in the journal; or the run was not begun by `foretune train`.
    """
    if (output / RESULTS_NAME).exists():
        return read_results(output)["config"]
    if (path := output / JOURNAL_NAME).exists():
        header = Journal.read(path).header
    elif (path := output / RUN_NAME).exists():
        header = read_run(path)
    else:
        return None
    if "config" not in header:
        raise JournalError(f"{path} is not of a run of 'foretune train': resume it with the program that began it.")
    return header["config"]
