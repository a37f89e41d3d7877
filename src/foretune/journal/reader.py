"""Reading a journal: every byte is checked, a torn last record is set aside, anything else is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zlib import crc32

from foretune.errors import JournalError
from foretune.journal.record import (
    CHECKED_PREFIX,
    CRC,
    FORMAT_VERSION,
    KIND_EVALUATION,
    KIND_OBSERVED_STEP,
    KIND_ROLLBACK,
    KIND_STEP,
    MAGIC,
    PREAMBLE,
    PREAMBLE_BYTES,
    PREFIX,
    EvaluationRecord,
    Record,
    RollbackRecord,
    StepRecord,
    decode_evaluation,
    decode_observed_step,
    decode_rollback,
    decode_step,
)

_DECODERS = {
    KIND_STEP: decode_step,
    KIND_EVALUATION: decode_evaluation,
    KIND_OBSERVED_STEP: decode_observed_step,
    KIND_ROLLBACK: decode_rollback,
}


@dataclass(frozen=True, slots=True)
class Journal:
    """A run's journal, read whole (50 bytes a step of one direction: a megabyte for 20,000 steps).

    Args:
        path: The file it was read from.
        header: The run's settings, as written when it began.
        records: Steps, evaluations and rollbacks in the order they were appended.
        offsets: Byte offset at which each record begins.
        valid_end: Byte offset behind the last whole record.
        torn_bytes: Bytes behind `valid_end`, of a record that was being written when its process died.
    """

    path: Path
    header: dict[str, Any]
    records: list[Record]
    offsets: list[int]
    valid_end: int
    torn_bytes: int

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Journal:
        """Read and check a journal; the file is not changed, and may be one that a run is writing.

        Raises:
            JournalError: the file cannot be opened, is no journal, is of a newer version, is cut inside its
                header, or a check fails; names the file, the byte offset and what was expected.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise unusable_file(path, error) from error
        return parse_journal(path, data)

    @property
    def steps(self) -> list[StepRecord]:
        """The step records, in order."""
        return [record for record in self.records if isinstance(record, StepRecord)]

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """The evaluation records, in order."""
        return [record for record in self.records if isinstance(record, EvaluationRecord)]

    @property
    def rollbacks(self) -> list[RollbackRecord]:
        """The rollback records, in order."""
        return [record for record in self.records if isinstance(record, RollbackRecord)]


def parse_journal(path: Path, data: bytes) -> Journal:
    """Return the journal in `data`, with the errors of `Journal.read`; `path` is named in them."""
    header, position, chain = _parse_header(path, data)
    records: list[Record] = []
    offsets: list[int] = []
    while len(data) - position >= CHECKED_PREFIX.size:
        kind, length, prefix_check = CHECKED_PREFIX.unpack_from(data, position)
        prefix = data[position : position + PREFIX.size]
        # Before the length is believed: a damaged one must not pass for a torn tail (see record.py).
        if crc32(prefix) != prefix_check:
            raise _damaged(path, data, position, "kind and length", crc32(prefix), len(records))
        if kind not in _DECODERS:
            known = ", ".join(str(number) for number in _DECODERS)
            raise JournalError(
                f"{path}, byte {position}: record of kind {kind}, expected one of {known}; the journal was "
                "written by a newer version of foretune. Upgrade foretune to read it."
            )
        start = position + CHECKED_PREFIX.size
        stop = start + length
        if stop + CRC.size > len(data):
            break
        payload = data[start:stop]
        chain = crc32(payload, crc32(prefix, chain))
        if chain != CRC.unpack_from(data, stop)[0]:
            raise _damaged(path, data, position, "record", chain, len(records))
        try:
            records.append(_DECODERS[kind](payload))
        except ValueError as error:
            raise JournalError(f"{path}, byte {position}: record of kind {kind} is malformed: {error}.") from error
        offsets.append(position)
        position = stop + CRC.size
    return Journal(path, header, records, offsets, position, len(data) - position)


def chain_at(data: bytes, offset: int) -> int:
    """Return the CRC from which a record at `offset` (a record boundary) is chained."""
    return CRC.unpack_from(data, offset - CRC.size)[0]


def unusable_file(path: Path, error: OSError) -> JournalError:
    """Return the error for a journal that the operating system does not let us open."""
    if isinstance(error, FileNotFoundError):
        return JournalError(f"{path}: no such file; expected the journal of a run.")
    if path.is_dir():
        return JournalError(f"{path} is a directory; expected the journal file in it ({path / 'journal'}).")
    return JournalError(f"{path}: the journal cannot be opened: {error.strerror or error}.")


def _parse_header(path: Path, data: bytes) -> tuple[dict[str, Any], int, int]:
    """Return the header, the offset of the first record and the CRC it is chained from."""
    if not data:
        raise JournalError(f"{path}, byte 0: the file is empty; expected a journal, which begins with {MAGIC!r}.")
    begin = data[: len(MAGIC)]
    if begin != MAGIC[: len(begin)]:
        raise JournalError(f"{path}, byte 0: not a foretune journal: found {begin!r}, expected {MAGIC!r}.")
    if len(data) < PREAMBLE_BYTES:
        raise _cut_header(path, data, PREAMBLE_BYTES)
    _, version, length = PREAMBLE.unpack_from(data)
    chain = crc32(data[: PREAMBLE.size])
    if chain != chain_at(data, PREAMBLE_BYTES):
        raise _damaged(path, data, 0, "version and header length", chain, 0)
    if version != FORMAT_VERSION:
        raise JournalError(
            f"{path}, byte {len(MAGIC)}: format version {version}, expected {FORMAT_VERSION}; the journal "
            "was written by a newer version of foretune. Upgrade foretune to read it."
        )
    stop = PREAMBLE_BYTES + length
    if len(data) < stop + CRC.size:
        raise _cut_header(path, data, stop + CRC.size)
    header_json = data[PREAMBLE_BYTES:stop]
    chain = crc32(header_json, chain)
    if chain != chain_at(data, stop + CRC.size):
        raise _damaged(path, data, PREAMBLE_BYTES, "header", chain, 0)
    try:
        header = json.loads(header_json)
    except ValueError as error:
        raise JournalError(f"{path}, byte {PREAMBLE_BYTES}: the header is not JSON: {error}.") from error
    if not isinstance(header, dict):
        found = type(header).__name__
        raise JournalError(f"{path}, byte {PREAMBLE_BYTES}: the header is JSON {found}, expected an object.")
    return header, stop + CRC.size, chain


def _cut_header(path: Path, data: bytes, expected: int) -> JournalError:
    return JournalError(
        f"{path}, byte {len(data)}: the file ends inside its header, expected at least {expected} bytes; "
        "nothing of the run can be read from it."
    )


def _damaged(path: Path, data: bytes, offset: int, what: str, check: int, num_whole: int) -> JournalError:
    """Return the error for the part of `data` at `offset`, whose stored check is not `check`."""
    if data.count(0, offset) == len(data) - offset:
        cause = "the file holds only zeros from here on, as a power failure leaves it"
    elif what == "record":
        cause = "it was changed, or a record before it was dropped or moved"
    else:
        cause = "it was changed"
    return JournalError(
        f"{path}, byte {offset}: the {what} does not match its checksum, expected {check:#010x}: {cause}. "
        f"The {num_whole} records before it are whole."
    )
