"""Worker processes on this machine: begun anew, never forked, and begun again when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_PATIENCE_SECONDS = 30.0


@dataclass(slots=True)
class Pool:
    """Processes that run the same command.

    Args:
        command: What each runs.
        size: How many there are.
        environment: What they have beside this process's environment.
        logs: Folder for what they print.
    """

    command: Sequence[str]
    size: int
    environment: Mapping[str, str]
    logs: Path
    num_restarts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in range(self.size):
            self._begin(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have workers that are still there leave their trials, and wait for them."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            try:
                process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def look_after(self) -> int:
        """Begin workers again that were killed, and return how many are at work."""
        for number, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[number]
            if code < 0:  # by a signal: the system's when memory runs out, or somebody's
                self.num_restarts += 1
                self._begin(number)
            else:
                self.exit_codes.append(code)
        return len(self._processes)

    def log_of(self, number: int) -> Path:
        """Return the file with what a worker printed."""
        return self.logs / f"worker-{number}.log"

    def _begin(self, number: int) -> None:
        with self.log_of(number).open("ab") as log:
            self._processes[number] = subprocess.Popen(
                self.command, env={**os.environ, **self.environment}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
