"""Tasks that are answered by free text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foretune.tasks.base import Example, Row, Task, Template
from foretune.tasks.prompts import strip_text

_MARK = "\0"


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """The model continues the prompt; the text is compared with one or more references.

    Args:
        references: The reference texts of a row; training uses the first. A row without any is left out.
        shortened: The field whose text, which prompts have as it is, is cut first where a sequence is too long.
        ends_text: The end-of-text token follows the target.
        stops_at_newline: An answer is a line: generation ends at the first newline.
        max_new_tokens: Most tokens of a generated text; 0 = nothing is generated, the loss alone counts.
        metric, objective: Token F1 and teacher forcing by default; further arguments as `Task`.
    """

    references: Callable[[Row], Sequence[str]]
    shortened: str | None = None
    ends_text: bool = False
    stops_at_newline: bool = True
    max_new_tokens: int = 50
    metric: str = "f1"
    objective: str = "lm"

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the index of the only candidate, the gold target."""
        return (0,)

    def is_usable(self, row: Row) -> bool:
        """Whether there is an answer."""
        return bool(self.references(row))

    def example(self, row: Row, template: Template, name: str = "example") -> Example:
        """Write `row` as an example called `name`; white space at the target's end stays."""
        prompt = strip_text(template.prompt(row))
        references = tuple(self.references(row))
        target = (template.prompt(row) + template.target(row, references[0])).lstrip()[len(prompt) :]
        return Example(
            prompt=prompt,
            candidates=(target,),
            correct=(0,),
            name=name,
            answers=references if self.max_new_tokens else (),
            shortened=self._shortened_span(row, template),
            ends_text=self.ends_text,
        )

    def demonstration(self, row: Row, template: Template) -> str:
        """Write `row` with its first reference."""
        return (template.prompt(row) + template.target(row, self.references(row)[0])).strip()

    def _shortened_span(self, row: Row, template: Template) -> tuple[int, int] | None:
        if self.shortened is None or not row[self.shortened]:
            return None
        # found by a mark in its place: the text itself may be in the prompt twice
        start = template.prompt({**row, self.shortened: _MARK}).lstrip().find(_MARK)
        return (start, start + len(row[self.shortened])) if start >= 0 else None
