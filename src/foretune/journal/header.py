"""The journal's header: settings as JSON that reads back equal, and the comparison of two of them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterator
from typing import Any

from foretune.errors import JournalError, UsageError

_MAX_NAMED = 10  # settings one message names; a model of another size differs in every shape
_ABSENT = object()


def header_to_json(header: dict[str, Any]) -> bytes:
    """Return a header as compact ASCII JSON; floats are written by `repr` and read back exactly.

    Raises:
        UsageError: a value would not read back equal; named by its dotted name.
    """
    return json.dumps(jsonable(header), allow_nan=False, separators=(",", ":")).encode("ascii")


def jsonable(value: Any, name: str = "") -> Any:
    """Return `value` as JSON gives it back: tuples become lists, every other type must be JSON's own.

    Raises:
        UsageError: a key is no string, a float is not finite or a type is unknown to JSON.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"Journal header: {name!r} is {value}; a setting must be finite (or None).")
        return value
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"Journal header: key {key!r} in {name!r} is no string; JSON has no other.")
        return {key: jsonable(item, _join(name, key)) for key, item in value.items()}
    raise UsageError(
        f"Journal header: {name!r} is of type {type(value).__name__}, which JSON does not have; "
        "give a str, int, float, bool, None, list or dict."
    )


def check_header(found: dict[str, Any], expected: dict[str, Any], ignore: tuple[str, ...] = ()) -> None:
    """Check that a run is resumed with the settings it began with.

    Args:
        found: Header of the run's journal.
        expected: Header that the settings asked for now would write.
        ignore: Dotted names that may differ; a name covers everything under it.
    Raises:
        JournalError: settings differ; names each by its dotted name, with both values (the first ten).
    """
    differences = [
        f"setting {name!r} {_was(before)} when the run began and {_is(now)} now"
        for name, before, now in _differences(found, jsonable(expected), "")
        if not any(name == skip or name.startswith((f"{skip}.", f"{skip}[")) for skip in ignore)
    ]
    if not differences:
        return
    named = "; ".join(differences[:_MAX_NAMED])
    more = f"; and {len(differences) - _MAX_NAMED} more" if len(differences) > _MAX_NAMED else ""
    raise JournalError(
        f"This run cannot be resumed: {named}{more}. Resume with the settings it began with, or begin a new run."
    )


def _differences(found: Any, expected: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted name, value before and value now of each leaf that differs, in the order of `found`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*found, *(key for key in expected if key not in found)]:
            yield from _differences(found.get(key, _ABSENT), expected.get(key, _ABSENT), _join(name, key))
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (before, now) in enumerate(zip(found, expected, strict=True)):
            yield from _differences(before, now, f"{name}[{index}]")
    elif found != expected:
        yield name, found, expected


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _was(value: Any) -> str:
    return "was not set" if value is _ABSENT else f"was {_shorten(value)}"


def _is(value: Any) -> str:
    return "is not set" if value is _ABSENT else f"is {_shorten(value)}"


def _shorten(value: Any) -> str:
    if isinstance(value, list):
        return f"{reprlib.repr(value)} ({len(value)} entries)"
    # Whole strings and numbers: a path or a hash that is cut short cannot be compared by eye.
    return reprlib.repr(value) if isinstance(value, dict) else repr(value)
