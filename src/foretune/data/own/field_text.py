"""Texts with fields of a row in braces: ``Q: {question}``."""

from __future__ import annotations

from dataclasses import dataclass
from string import Formatter

from foretune.errors import UsageError
from foretune.tasks.base import Row

TEXT_TYPES = str | int | float
"""What a field that is written into a text may be."""


@dataclass(frozen=True, slots=True)
class FieldText:
    """A text with fields in braces; doubled braces stand for themselves.

    Args:
        parts: Pieces in order: what is written as it stands, and the field that follows it (None at the end).
    """

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, option: str) -> FieldText:
        """Read a text.

        Raises:
            UsageError: a brace is not closed, or braces hold something else than the name of a field.
        """
        parts = []
        try:
            for literal, name, spec, conversion in Formatter().parse(text):
                if name is not None and (not name.strip() or spec or conversion):
                    inside = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                    raise UsageError(
                        f"{option} {text!r}: braces hold the name of a field, such as {{text}}; found {{{inside}}}. "
                        "Braces of the text itself are doubled: {{ and }}."
                    )
                parts.append((literal, name))
        except ValueError as error:  # what the parser of the standard library raises
            if isinstance(error, UsageError):
                raise
            raise UsageError(
                f"{option} {text!r}: {error}. Braces of the text itself are doubled: {{{{ and }}}}."
            ) from None
        return cls(tuple(parts))

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, each once, in order."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    @property
    def ending(self) -> str:
        """What follows the last field."""
        literal, name = self.parts[-1] if self.parts else ("", None)
        return literal if name is None else ""

    def write(self, row: Row) -> str:
        """Return the text with the values of `row`."""
        return "".join(literal + ("" if name is None else str(row[name])) for literal, name in self.parts)

    def write_each(self, row: Row) -> tuple[str, ...]:
        """Return a text for every element of the field that holds a list; one text where none does.

        Raises:
            ValueError: two fields hold lists, or a list holds something else than texts.
        """
        lists = [name for name in self.fields if isinstance(row[name], list)]
        if not lists:
            return (self.write(row),)
        if len(lists) > 1:
            raise ValueError(f"fields {lists[0]!r} and {lists[1]!r} both hold lists; one of them may.")
        (name,) = lists
        for element in row[name]:
            if not isinstance(element, str):
                raise ValueError(f"field {name!r} has {element!r:.60} in its list; it should hold strings.")
        return tuple(self.write({**row, name: element}) for element in row[name])
