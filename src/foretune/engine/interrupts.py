"""Hold back Ctrl-C while weights are being written."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class hold_interrupts:
    """Deliver a SIGINT that arrives inside the block when the block is over, or when it is let through.

    Only the main thread receives signals; in any other thread this does nothing.
    """

    def __init__(self) -> None:
        self._holds = False
        self._passes = False
        self._arrived = False

    def __enter__(self) -> Self:
        on_main_thread = threading.current_thread() is threading.main_thread()
        # a handler that was not installed from Python (None) could not be put back
        if on_main_thread and signal.getsignal(signal.SIGINT) is not None:
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._holds = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._holds:
            self._holds = False
            signal.signal(signal.SIGINT, self._previous)
            if self._arrived:
                signal.raise_signal(signal.SIGINT)

    def let_through(self) -> None:
        """Deliver what has arrived, and the next SIGINT as soon as it arrives; those after it are held again.

        One only: whoever presses Ctrl-C twice must not interrupt the clean-up that the first one started.
        """
        self._passes = True
        if self._arrived:
            self._arrived = False
            signal.raise_signal(signal.SIGINT)

    def hold_again(self) -> None:
        """End `let_through`."""
        self._passes = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._passes and callable(self._previous):
            self._passes = False
            self._previous(number, frame)
        else:
            self._arrived = True
