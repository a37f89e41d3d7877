"""Signs of life: whether a process is still there, and what one does to show that it is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def machine() -> str:
    """Return what two processes have alike that can see each other: a boot of the system, and a container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_start(pid: int) -> str | None:
    """Return when a process began, in ticks since the boot: ids of processes are used again; None if it is gone.

    A process that has ended and that nobody has waited for is gone. Without /proc the answer of one that is there is
    ``unknown``.
    """
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _start_without_proc(pid)
    return None if state == "Z" else rest[18]


@contextmanager
def beating(beat: Callable[[], bool], *, seconds: float, name: str) -> Iterator[None]:
    """A block during which `beat` is called every so many seconds, in a thread of its own, until it returns False.

    Args:
        beat: Gives a sign of life, and says whether another is wanted. Errors are its own to handle.
        seconds: Between two calls; the first comes after as many.
        name: Of the thread.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(seconds) and beat():
            pass

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _start_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # another user's
        pass
    return "unknown"
