"""What a task is: where its rows come from, how a row becomes a prompt, and how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Self, get_args

from foretune.errors import UsageError, near_misses
from foretune.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from foretune.tasks.masked import MaskedTemplate

Row = Mapping[str, Any]

_TYPE_WORDS: Mapping[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class Example:
    """One row, ready to be tokenized for a causal language model.

    Args:
        prompt: Text up to the option, demonstrations included.
        candidates: The option strings that follow the prompt, such as ``" terrible"`` and ``" great"``; a task of
            generation has one, its gold target.
        correct: Indices into `candidates` of every right answer; training uses the first.
        name: Where the row comes from, for messages, such as ``"sst2 train row 12"``.
        answers: Reference texts of a task of generation, any of which is right; empty for others.
        shortened: Characters ``[start, end)`` of the prompt that are cut first where it is too long; None = the
            prompt is cut on the left.
        ends_text: The tokenizer's end-of-text token follows each option, as its last token.
    """

    prompt: str
    candidates: tuple[str, ...]
    correct: tuple[int, ...]
    name: str = field(default="example", compare=False)
    answers: tuple[str, ...] = ()
    shortened: tuple[int, int] | None = None
    ends_text: bool = False


CONVERTED = "refs/convert/parquet"
"""The branch with the hub's own conversion of a dataset, for those that still come with a loading script."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """One place on the Hugging Face hub.

    Args:
        dataset: Its id.
        config: Configuration; None = the only one.
        revision: Branch, tag or commit; None = the default branch.
        splits: What our splits are called there, where the names differ.
    """

    dataset: str
    config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        config = f" ({self.config})" if self.config else ""
        return f"{self.dataset}{config}{'@' + self.revision if self.revision else ''}"

    def arguments(self) -> dict[str, Any]:
        """Return what `datasets.load_dataset` is to be called with: converted, a configuration is a folder."""
        configuration = "data_dir" if self.revision == CONVERTED else "name"
        return {"path": self.dataset, configuration: self.config, "revision": self.revision}


def after_a_space(row: Row, candidate: str) -> str:
    """The usual target: a space and the candidate."""
    return f" {candidate}"


def as_it_is(row: Row, candidate: str) -> str:
    """The target after a prompt that ends in a newline: the candidate."""
    return candidate


@dataclass(frozen=True, kw_only=True)
class Template:
    """One version of a prompt; `foretune.tasks.prompts` strips the texts, so they may be written naturally.

    Args:
        prompt: The row's text up to the option.
        target: What follows it for a candidate.
        sfc_prompt: A prompt that says nothing about the row, with which surface form competition calibrates; None
            where there is none (tasks of generation).
    """

    prompt: Callable[[Row], str]
    target: Callable[[Row, str], str] = after_a_space
    sfc_prompt: Callable[[Row], str] | None = None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Rows, prompts, right answers and a metric.

    Args:
        name: Our id: lower case, no hyphen; also the folder name under ``--data-dir``.
        summary: One line for listings.
        fields: The fields every row must have, with their JSON types.
        check: Raises a ValueError, naming the field, for a row that has all fields and yet makes no sense.
        sources: Hub datasets of the same rows, tried in this order.
        files: Local files of splits; for these, data folder and hub are not asked.
        own_data: The rows are the user's own: they come from `files` or `sources`, never from the data folder, and all
            of them are used unless numbers are given.
        templates: Prompt versions for causal language models by name; none for a task of masked ones only.
        template_for: Makes the prompt where it depends on the tokenizer: see `bind`.
        masked: The prompt for masked language models, if there is one.
        train_split, eval_split: Split names; files are ``<split>.jsonl``.
        cuts_eval_from_train: The hub has one split: without a local file of `eval_split`, the last rows of the
            permutation from which training rows come are test rows.
        default_template: The version used where none is asked for.
        metric: The metric reported, a name in `foretune.evaluation.METRICS`.
        objective: The objective the task is trained with where none is asked for.
        num_train, num_dev, num_eval: Rows of the published setting.
    """

    name: str
    summary: str
    fields: Mapping[str, type | UnionType]
    check: Callable[[Row], None] = lambda row: None
    sources: tuple[HubSource, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    own_data: bool = False
    templates: Mapping[str, Template] = field(default_factory=dict)
    template_for: Callable[[PreTrainedTokenizerBase], Template] | None = None
    masked: MaskedTemplate | None = None
    train_split: str = "train"
    eval_split: str = "validation"
    cuts_eval_from_train: bool = False
    default_template: str = "v0"
    metric: str = "accuracy"
    objective: str = "classification"
    num_train: int = 1000
    num_dev: int = 500
    num_eval: int = 1000

    @abstractmethod
    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the indices of the right candidates of `row`; with several classes, the first names its class."""

    @abstractmethod
    def example(self, row: Row, template: Template, name: str = "example") -> Example:
        """Write `row` as an example called `name`."""

    @abstractmethod
    def demonstration(self, row: Row, template: Template) -> str:
        """Write `row` with its right answer, as it stands in the prompt of another."""

    def check_values(self, row: Row, where: str) -> None:
        """Check the values of a row that has all fields, with the right types.

        Raises:
            UsageError: a value is out of range; the message starts with `where` and names the field.
        """
        try:
            self.check(row)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Return the task with its prompts written for `tokenizer`; itself where they are the same for all.

        Raises:
            IncompatibleError: the tokenizer lacks what the prompt needs.
        """
        if self.template_for is None:
            return self
        return replace(self, templates={self.default_template: self.template_for(tokenizer)})

    def calibration(self, row: Row, template: Template, name: str = "example") -> Example:
        """Write `row`'s candidates after a prompt that says nothing about it (surface form competition).

        Raises:
            UsageError: the task has no such prompt.
        """
        raise UsageError(f"Task {self.name!r} cannot be calibrated: its answers are free text.")

    def is_usable(self, row: Row) -> bool:
        """Whether a row has an answer at all; others are left out and counted."""
        return True

    def form(self, row: Row) -> str:
        """Name the form of the dataset that `row` is in, where there are several that score differently."""
        return ""

    def template(self, version: str | None = None) -> Template:
        """Return one prompt version, the default one for None.

        Raises:
            UsageError: the task has no such version; the message lists those it has.
        """
        if not self.templates:
            raise UsageError(
                f"Task {self.name!r} has a prompt for masked language models only; "
                "give --model a masked one, such as roberta-large."
            )
        version = self.default_template if version is None else version
        if version not in self.templates:
            misses = near_misses(version, self.templates)
            raise UsageError(f"Task {self.name!r} has no template {version!r}.{misses}")
        return self.templates[version]

    def check_row(self, row: object, where: str) -> None:
        """Check that `row` has this task's fields, with values that make sense.

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
            kinds = get_args(kind) or (kind,)
            if type(row[name]) not in kinds:  # not isinstance: a JSON `true` must not pass for the label 1
                words = " or ".join(_TYPE_WORDS[kind] for kind in kinds)
                raise UsageError(f"{where}: field {name!r} is {row[name]!r:.60}; it should be {words}.")
        self.check_values(row, where)

    def _field_list(self) -> str:
        return ", ".join(map(repr, self.fields))


TASKS: Registry[Task] = Registry("task", "foretune.tasks")
