"""Logs of other programs: one module a format.

`read_logs` finds and reads what is at a path. A format is a module with an `AbstractReader`, named in `READERS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from foretune.errors import UsageError, near_misses
from foretune.ledger.readers.base import AbstractReader, Log
from foretune.ledger.readers.tensorboard import TensorBoard
from foretune.ledger.readers.trainer_state import TrainerState
from foretune.ledger.readers.wandb_export import WandbExport
from foretune.ledger.readers.wandb_run import WandbRun

READERS: dict[str, AbstractReader] = {
    reader.source: reader for reader in (TrainerState(), WandbRun(), TensorBoard(), WandbExport())
}
"""By the name of the format; the first that knows a path reads it."""

__all__ = ["READERS", "AbstractReader", "Log", "read_logs"]


def read_logs(path: Path, source: str | None = None) -> list[Log]:
    """Read every log at a path: of a file, or of a folder with all below it.

    Args:
        path: File or folder.
        source: Name of a format; default: whichever fits.
    Raises:
        UsageError: there is nothing there, nothing that is known, or something damaged; the file is named.
    """
    if source is not None and source not in READERS:
        raise UsageError(f"--format {source}: no such format.{near_misses(source, READERS)}")
    if not path.exists():
        raise UsageError(f"'{path}' does not exist: nothing can be imported from it.")
    readers = [READERS[source]] if source else list(READERS.values())
    logs = [log for place, reader in _find(path, readers) for log in reader.read(place)]
    if not logs:
        formats = "; ".join(f"{reader.source}: {reader.what}" for reader in readers)
        raise UsageError(f"'{path}' holds no log that is known ({formats}).")
    return logs


def _find(path: Path, readers: list[AbstractReader]) -> Iterator[tuple[Path, AbstractReader]]:
    """Yield what is read, and by which reader; nothing below a folder that one of them takes as a whole."""
    for reader in readers:
        if reader.knows(path):
            yield path, reader
            return
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if not inner.is_symlink():  # latest-run of W&B is one
                yield from _find(inner, readers)
