"""What several tasks check in a row beyond the types of its fields."""

from __future__ import annotations

from collections.abc import Mapping


def check_strings(value: object, field: str) -> None:
    """Raise a ValueError that names `field` unless its value is a list of strings."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"field {field!r} is {value!r:.60}; it should be a list of strings.")


def check_strings_within(value: Mapping[str, object], field: str, part: str) -> None:
    """Raise a ValueError unless the object in `field` has a list of strings called `part`."""
    if part not in value:
        found = ", ".join(map(repr, value)) or "nothing"
        raise ValueError(f"field {field!r} has no {part!r}; it should be a list of strings in it, found {found}.")
    check_strings(value[part], f"{field}.{part}")
