"""One process at a time is at a run: two would write one journal, and take each other's checkpoints for torn ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foretune.errors import UsageError
from foretune.liveness import machine, process_start

HOLDER_NAME = ".held"
"""In a run's folder while a process is at it: which one. What a killed process leaves there counts for nothing."""


def check_free(output: Path) -> None:
    """Refuse a run that another process of this machine is at; those of other machines are not seen.

    Raises:
        UsageError: naming the folder and the process.
    """
    try:
        holder = json.loads((output / HOLDER_NAME).read_text())
        place, pid, start = holder["machine"], holder["pid"], holder["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if pid != os.getpid() and place == machine() and start is not None and start == process_start(pid):
        raise UsageError(f"--output {output}: process {pid} is at this run; end it, or wait for its end.")


@contextmanager
def holding(output: Path) -> Iterator[None]:
    """A block during which this process is at the run in a folder.

    Raises:
        UsageError: another one is.
    """
    check_free(output)
    path = output / HOLDER_NAME
    path.write_text(json.dumps({"machine": machine(), "pid": os.getpid(), "start": process_start(os.getpid())}))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
