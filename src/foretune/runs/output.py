"""The folder of a run: what its files are called, whether it is free, and its results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from foretune.errors import UsageError
from foretune.trainer.checkpoint import read_json
from foretune.trainer.snapshots import RUN_NAME
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
    if taken and not resume:
        raise UsageError(f"--output {output} holds a run already ({taken[0]}): add --resume or choose another folder.")
    foreign = RUN_NAME if has_journal else JOURNAL_NAME
    if foreign in taken:
        kind = f"run of '{recorded_method(output)}'" if has_journal else "zeroth-order run"
        raise UsageError(f"--output {output} holds a {kind} ({foreign}): choose another folder.")
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: {existing} is not writable.")


def recorded_method(output: Path) -> str:
    """Return the name of the method of a run without a journal."""
    return read_json(output / RUN_NAME)["method"]["name"]


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
    """Read what `write_results` wrote."""
    return json.loads((output / RESULTS_NAME).read_text())
