"""What a task is: where its rows come from, how a row becomes a prompt, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foretune.errors import UsageError, near_misses
from foretune.registry import Registry

Row = Mapping[str, Any]

_TYPE_WORDS = {str: "a string", int: "an integer"}


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to be tokenized.

    Args:
        prompt: Text up to the option, without demonstrations.
        candidates: The option strings that follow the prompt, such as ``" terrible"`` and ``" great"``.
        correct: Indices into `candidates` of every right answer; training uses the first.
        name: Where the row comes from, for messages, such as ``"sst2 train row 12"``.
    """

    prompt: str
    candidates: tuple[str, ...]
    correct: tuple[int, ...]
    name: str = field(default="example", compare=False)


@dataclass(frozen=True, slots=True)
class HubSource:
    """One place on the Hugging Face hub: dataset id, configuration and revision (None = the default)."""

    dataset: str
    config: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        config = f" ({self.config})" if self.config else ""
        return f"{self.dataset}{config}{'@' + self.revision if self.revision else ''}"


@dataclass(frozen=True, kw_only=True)
class Template:
    """One version of a prompt: the text before the option, the same text with it, and both without the row.

    The `sfc_` pair is what surface form competition calibrates with: the option after a prompt that says
    nothing about the row. `foretune.tasks.prompts` strips all four, so they may be written naturally.
    """

    prompt: Callable[[Row], str]
    full: Callable[[Row, str], str]
    sfc_prompt: Callable[[Row], str]
    sfc_full: Callable[[Row, str], str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A classification task whose candidates are the same words for every row.

    Args:
        name: Our id: lower case, no hyphen; also the folder name under ``--data-dir``.
        summary: One line for listings.
        sources: Hub datasets of the same rows, tried in this order.
        fields: The fields every row must have, with their JSON types.
        label_words: The word of each label, in label order.
        templates: Prompt versions by name.
        label_field: The field with the integer label.
        train_split, eval_split: Split names, the same on the hub and as ``<split>.jsonl``.
        default_template: The version used where none is asked for.
        metric: The metric reported.
        train_mode: The objective the task is trained with where none is asked for.
        num_train, num_dev, num_eval: Rows of the published setting.
    """

    name: str
    summary: str
    sources: tuple[HubSource, ...]
    fields: Mapping[str, type]
    label_words: tuple[str, ...]
    templates: Mapping[str, Template]
    label_field: str = "label"
    train_split: str = "train"
    eval_split: str = "validation"
    default_template: str = "v0"
    metric: Literal["accuracy"] = "accuracy"
    train_mode: Literal["classification"] = "classification"
    num_train: int = 1000
    num_dev: int = 500
    num_eval: int = 1000

    def template(self, version: str | None = None) -> Template:
        """Return one prompt version, the default one for None.

        Raises:
            UsageError: the task has no such version; the message lists those it has.
        """
        version = self.default_template if version is None else version
        if version not in self.templates:
            misses = near_misses(version, self.templates)
            raise UsageError(f"Task {self.name!r} has no template {version!r}.{misses}")
        return self.templates[version]

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return the candidate texts of `row`, in index order."""
        return self.label_words

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the indices of the right candidates of `row`."""
        return (row[self.label_field],)

    def check_row(self, row: object, where: str) -> None:
        """Check that `row` has this task's fields and a known label.

        Raises:
            UsageError: it does not; the message starts with `where` and names the field.
        """
        if not isinstance(row, Mapping):
            raise UsageError(f"{where}: expected an object with {self._field_list()}, found {row!r:.60}.")
        for name, kind in self.fields.items():
            if name not in row:
                raise UsageError(
                    f"{where}: field {name!r} is missing; task {self.name!r} needs {self._field_list()}, "
                    f"found {', '.join(map(repr, row)) or 'none'}."
                )
            if type(row[name]) is not kind:  # not isinstance: a JSON `true` must not pass for the label 1
                raise UsageError(f"{where}: field {name!r} is {row[name]!r:.60}; it should be {_TYPE_WORDS[kind]}.")
        label = row[self.label_field]
        if not 0 <= label < len(self.label_words):
            raise UsageError(
                f"{where}: field {self.label_field!r} is {label}; "
                f"task {self.name!r} has labels 0 to {len(self.label_words) - 1}."
            )

    def _field_list(self) -> str:
        return ", ".join(map(repr, self.fields))


TASKS: Registry[Task] = Registry("task", "foretune.tasks")
