"""Protocol buffers as far as logs need them: the fields of a message, without its schema.

Reference: the encoding page of the protocol buffers documentation (varints, wire types 0, 1, 2 and 5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

Message = bytes
Value = int | bytes


def fields(message: Message) -> Iterator[tuple[int, Value]]:
    """Yield number and value of each field: an integer of a varint, bytes of everything else.

    Raises:
        ValueError: the bytes are no message.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of wire type {kind}")
        if place + length > len(message):
            raise ValueError("a field that reaches beyond the end")
        yield number, message[place : place + length]
        place += length


def all_of(message: Message, number: int) -> list[bytes]:
    """Return the bytes of every field with this number."""
    return [value for found, value in fields(message) if found == number and isinstance(value, bytes)]


def text_of(message: Message, number: int) -> str | None:
    """Return a field that is text; None where it is absent."""
    found = all_of(message, number)
    return found[-1].decode() if found else None


def integer_of(message: Message, number: int) -> int:
    """Return a field that is an int64; 0, its default, where it is absent."""
    found = [value for key, value in fields(message) if key == number and isinstance(value, int)]
    value = found[-1] if found else 0
    return value - (1 << 64) if value >> 63 else value


def float_of(value: bytes) -> float:
    """Return what four or eight bytes are as a float."""
    return struct.unpack("<f" if len(value) == 4 else "<d", value)[0]


def _varint(message: Message, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(message) or shift > 63:
            raise ValueError("a torn or endless number")
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
