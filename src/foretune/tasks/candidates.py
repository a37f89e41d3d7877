"""What tasks have in common in which one of several texts follows the prompt."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.tasks.base import Example, Row, Task, Template
from foretune.tasks.prompts import write_options


@dataclass(frozen=True, kw_only=True)
class AbstractCandidateTask(Task):
    """A task that is answered by choosing a candidate; arguments as `Task`."""

    @abstractmethod
    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return the candidates of `row`, in index order, as templates take them."""

    def example(self, row: Row, template: Template, name: str = "example") -> Example:
        """Write `row` as an example called `name`."""
        return self._write(template.prompt(row), row, template, name)

    def demonstration(self, row: Row, template: Template) -> str:
        """Write `row` with its (first) right answer."""
        answer = self.candidates(row)[self.correct(row)[0]]
        return (template.prompt(row) + template.target(row, answer)).strip()

    def calibration(self, row: Row, template: Template, name: str = "example") -> Example:
        """As `Task.calibration`."""
        if template.sfc_prompt is None:
            raise UsageError(f"Task {self.name!r} cannot be calibrated: its template has no prompt without the row.")
        return self._write(template.sfc_prompt(row), row, template, name)

    def _write(self, prompt: str, row: Row, template: Template, name: str) -> Example:
        targets = [template.target(row, candidate) for candidate in self.candidates(row)]
        prompt, options = write_options(prompt, targets)
        return Example(prompt=prompt, candidates=options, correct=self.correct(row), name=name)
