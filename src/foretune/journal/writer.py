"""Writing a journal: one unbuffered write a record, so a killed process leaves at most a torn one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from foretune.errors import JournalError, UsageError
from foretune.journal.header import header_to_json
from foretune.journal.reader import Journal, chain_at, parse_journal, unusable_file
from foretune.journal.record import Record, RollbackRecord, StepRecord, encode_preamble_and_header, encode_record


@dataclass(frozen=True, slots=True)
class _Tail:
    """Where the next record goes: offset, CRC it is chained from, last step written (-1: none)."""

    end: int
    chain: int
    last_step: int


class JournalWriter:
    """Appends records to a run's journal. One writer a file; make it with `create` or `reopen`.

    What `append` has returned from is the kernel's: it survives the death of this process by any signal.
    It survives a power failure once `sync` has returned.
    """

    def __init__(self, path: Path, file: FileIO, tail: _Tail) -> None:
        self.path = path
        self._file = file
        # One object, replaced in one assignment: an interrupt never sees the offset of one record
        # with the chain of another.
        self._tail = tail

    @classmethod
    def create(cls, path: str | PathLike[str], header: dict[str, Any]) -> JournalWriter:
        """Begin a journal; the file appears with its whole header or not at all.

        Args:
            header: The run's settings, of JSON's types (tuples are stored as lists, floats exactly).
        Raises:
            JournalError: the file exists, or cannot be written.
            UsageError: the header holds a value that JSON would not give back.
        """
        path = Path(path)
        content = encode_preamble_and_header(header_to_json(header))
        if path.exists():
            raise JournalError(
                f"{path} exists; a new run does not overwrite it. Resume that run, or choose another folder."
            )
        _write_whole(path, content)
        return cls.reopen(path)

    @classmethod
    def reopen(cls, path: str | PathLike[str]) -> JournalWriter:
        """Check a whole journal, cut off a torn last record and go on behind the last whole one.

        Raises:
            JournalError: as `Journal.read`; or the file cannot be written. The file is then unchanged.
        """
        path = Path(path)
        try:
            file = open(path, "r+b", buffering=0)  # noqa: SIM115 (the writer owns it; close() closes it)
        except OSError as error:
            raise unusable_file(path, error) from error
        try:
            data = file.readall()
            journal = parse_journal(path, data)
            writer = cls(path, file, _tail_at(journal, data, len(journal.records)))
            if journal.torn_bytes:
                writer._truncate()
                writer.sync()
            return writer
        except BaseException:
            file.close()
            raise

    def append(self, record: Record) -> None:
        """Write one record in one unbuffered write; on any failure the file is as it was before.

        Raises:
            JournalError: the disk refuses the record; the file was changed by someone else; the writer is
                closed.
            UsageError: the record does not fit the format, or its step is not behind the last one.
        """
        self._refuse_closed()
        self._refuse_changed()
        tail = self._tail
        last_step = tail.last_step
        if isinstance(record, StepRecord):
            if record.step <= last_step:
                raise UsageError(
                    f"Step {record.step} cannot follow step {last_step} in {self.path}: steps increase. To "
                    f"go on from an earlier step, drop_after({record.step}) first."
                )
            last_step = record.step
        data, chain = encode_record(record, tail.chain)
        try:
            self._write(data)
            self._tail = _Tail(tail.end + len(data), chain, last_step)
        except OSError as error:
            self._truncate()
            raise JournalError(
                f"{self.path}, byte {tail.end}: the record cannot be written: {error.strerror or error}. The "
                "records before it are whole; make room and resume."
            ) from error
        except BaseException:
            self._truncate()
            raise

    def drop_after(self, step: int) -> None:
        """Truncate to the records before update `step`, the state in which `step` updates are complete.

        Kept are the steps below `step`, and evaluations and rollbacks of at most `step` completed steps; the next
        step to append is `step`. Durable on return.

        Raises:
            JournalError: as `Journal.read`; the file was changed by someone else; the writer is closed.
        """
        _, self._tail = self._before(step)
        self._truncate()
        self.sync()

    def go_back(self, step: int, rollbacks: Sequence[RollbackRecord]) -> None:
        """Put `rollbacks` in the place of what `drop_after` drops; a killed process leaves the old file or the new one.

        Durable on return.

        Raises:
            JournalError: as `drop_after`; or the file cannot be written, and is as it was.
            UsageError: a record does not fit the format.
        """
        data, tail = self._before(step)
        content, chain = data[: tail.end], tail.chain
        for rollback in rollbacks:
            encoded, chain = encode_record(rollback, chain)
            content += encoded
        _write_whole(self.path, content)
        self._file.close()  # of the old file
        self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 (as in reopen)
        self._file.seek(len(content))
        self._tail = _Tail(len(content), chain, tail.last_step)

    def _before(self, step: int) -> tuple[bytes, _Tail]:
        """Return the whole file, and the tail behind the records before update `step`."""
        self._refuse_closed()
        self._refuse_changed()
        self._file.seek(0)
        data = self._file.readall()
        self._file.seek(self._tail.end)
        journal = parse_journal(self.path, data)
        kept = next(
            (index for index, record in enumerate(journal.records) if not _is_before(record, step)),
            len(journal.records),
        )
        return data, _tail_at(journal, data, kept)

    def sync(self) -> None:
        """Return when everything appended is on the disk (fsync); called at checkpoints."""
        self._refuse_closed()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if not self._file.closed:
            try:
                self.sync()
            finally:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        """Write all of `data`: one system call, more only where the kernel takes a part (a full disk)."""
        written = self._file.write(data)
        while written < len(data):
            written += self._file.write(data[written:])

    def _truncate(self) -> None:
        self._file.truncate(self._tail.end)
        self._file.seek(self._tail.end)

    def _refuse_closed(self) -> None:
        if self._file.closed:
            raise JournalError(f"{self.path}: the journal is closed; reopen it to append.")

    def _refuse_changed(self) -> None:
        # Not a file lock: worker processes forked from a killed run would hold it for seconds, and the
        # resumed run would be refused.
        size = os.fstat(self._file.fileno()).st_size
        if size != self._tail.end:
            raise JournalError(
                f"{self.path}: the file has {size} bytes, expected {self._tail.end}: another process "
                "writes to it. Is this run already running elsewhere?"
            )


def _is_before(record: Record, step: int) -> bool:
    return record.step < step if isinstance(record, StepRecord) else record.step <= step


def _tail_at(journal: Journal, data: bytes, num_records: int) -> _Tail:
    """Return the tail behind the first `num_records` records."""
    end = journal.offsets[num_records] if num_records < len(journal.records) else journal.valid_end
    steps = (record.step for record in reversed(journal.records[:num_records]) if isinstance(record, StepRecord))
    return _Tail(end, chain_at(data, end), next(steps, -1))


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears, durably, with all of its content or not at all.

    Raises:
        JournalError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise JournalError(f"{path}: the journal cannot be written: {error.strerror or error}.") from error


def _sync_directory(path: Path) -> None:
    """Make a rename in `path` durable; only POSIX lets a directory be opened for that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
