"""TensorBoard's event files, without TensorBoard.

A file is a sequence of records: length u64, masked CRC-32C of these 8 bytes u32, the data, its masked CRC-32C u32, all
little-endian. The data is a protocol buffer, `Event`: wall_time = 1, step = 2, summary = 5, a list (1) of values with
tag = 1 and either simple_value = 2 or tensor = 8 (dtype = 1, tensor_content = 4, float_val = 5, double_val = 6). What
is no scalar is passed over.

Reading them ourselves takes this page; the package that writes them brings a server and gRPC.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from foretune.errors import UsageError
from foretune.ledger.readers.base import AbstractReader, Log, at, by_step, id_of, scalar_name
from foretune.ledger.readers.protobuf import all_of, fields, float_of, integer_of, text_of

_MARK = "tfevents"
_HEAD = struct.Struct("<QI")
_DTYPE_BYTES = {1: 4, 2: 8}  # DT_FLOAT, DT_DOUBLE


class TensorBoard(AbstractReader):
    """A folder with event files is one run; those of an interrupted one follow each other."""

    source: ClassVar[str] = "tensorboard"
    what: ClassVar[str] = "event files, events.out.tfevents.*"

    def knows(self, path: Path) -> bool:
        """Whether there are event files."""
        return bool(_event_files(path))

    def read(self, path: Path) -> list[Log]:
        """Read all scalars; a record that was being written when the program died is left out."""
        folder = path if path.is_dir() else path.parent
        times: list[float] = []
        pairs = []
        for file in _event_files(path):
            for time, step, name, value in _scalars(file):
                times.append(time)
                pairs.append((step, {scalar_name(name): value}))
        points = by_step(pairs)
        if not points:
            return []
        return [
            Log(
                id=id_of(self.source, path.absolute()),
                name=folder.absolute().name,
                source=self.source,
                points=points,
                started=at(min(times)),
                ended=at(max(times)),
                steps=points[-1].step,
                seconds=max(times) - min(times),
                output=str(path.absolute()),
            )
        ]


def _event_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and _MARK in file.name)
    return [path] if path.is_file() and _MARK in path.name else []


def _scalars(path: Path) -> Iterator[tuple[float, int, str, float]]:
    """Yield time, step, tag and value."""
    for offset, event in _records(path):
        try:
            found = dict(fields(event))
            for summary in all_of(event, 5):
                for entry in all_of(summary, 1):
                    value = _value(entry)
                    name = text_of(entry, 1)
                    if value is not None and name is not None:
                        time = found.get(1)
                        yield float_of(time) if isinstance(time, bytes) else 0.0, integer_of(event, 2), name, value
        except (ValueError, struct.error) as error:
            raise UsageError(f"{path}: the event at byte {offset} is damaged: {error}.") from None


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    data = path.read_bytes()
    place = 0
    while place + _HEAD.size <= len(data):
        length, check = _HEAD.unpack_from(data, place)
        if check != masked_crc32c(data[place : place + 8]):
            raise UsageError(f"{path}: the record at byte {place} is damaged, or this is no event file.")
        start = place + _HEAD.size
        if start + length + 4 > len(data):
            return  # torn: it was being written
        event = data[start : start + length]
        if struct.unpack_from("<I", data, start + length)[0] != masked_crc32c(event):
            raise UsageError(f"{path}: the record at byte {place} is damaged.")
        yield place, event
        place = start + length + 4


def _value(entry: bytes) -> float | None:
    """Return the scalar of a summary's value; None if it is none."""
    for number, value in fields(entry):
        if number == 2 and isinstance(value, bytes):
            return float_of(value)
        if number == 8 and isinstance(value, bytes):
            return _tensor_scalar(value)
    return None


def _tensor_scalar(tensor: bytes) -> float | None:
    size = _DTYPE_BYTES.get(integer_of(tensor, 1))
    numbers = [value for number, value in fields(tensor) if number in (4, 5, 6) and isinstance(value, bytes)]
    return float_of(numbers[0]) if size and len(numbers) == 1 and len(numbers[0]) == size else None


def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of bytes, rotated by 15 bits and shifted by a constant, as records have it."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
