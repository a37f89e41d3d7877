"""Where the ledger is."""

from __future__ import annotations

import os
from pathlib import Path

from foretune.errors import UsageError

LEDGER_NAME = "runs.sqlite"
VARIABLE = "FORETUNE_LEDGER"
NO_LEDGER = "none"


def find_ledger(option: str | None, default_folder: Path | None) -> Path | None:
    """Return the file to write to, or None for no ledger.

    Args:
        option: A file, a folder with one, or "none"; where it is None or empty, $FORETUNE_LEDGER counts.
        default_folder: Where it is if neither says; None: nowhere.
    """
    chosen = option or os.environ.get(VARIABLE)
    if chosen == NO_LEDGER:
        return None
    if chosen:
        return _in_folder(Path(chosen))
    return None if default_folder is None else default_folder / LEDGER_NAME


def find_existing_ledger(option: str | None) -> Path:
    """Return the file to read: the one named, else `runs.sqlite` here or in `runs`.

    Raises:
        UsageError: there is none.
    """
    if option == NO_LEDGER:
        raise UsageError(f"--ledger {option}: there is none to read; give a file.")
    named = find_ledger(option, None)
    places = [named] if named is not None else [Path(LEDGER_NAME), Path("runs", LEDGER_NAME)]
    for path in places:
        if path.is_file():
            return path
    looked = " or ".join(map(str, places))
    raise UsageError(
        f"There is no ledger {looked}. 'foretune train' writes one beside its --output; name it: --ledger FILE."
    )


def _in_folder(path: Path) -> Path:
    return path / LEDGER_NAME if path.is_dir() else path
