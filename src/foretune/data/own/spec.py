"""What a user says of a task of their own, on the command line or in a task file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretune.errors import UsageError, near_misses
from foretune.tasks.classification import label_name
from foretune.user_yaml import kind_of, read_yaml

_NAMED = re.compile(r"([^={}\s]+)=(.*)", re.DOTALL)
"""``0=terrible``: a label and its word."""


@dataclass(frozen=True, kw_only=True)
class OwnTask:
    r"""A task of the user's: rows, a prompt, and one of four kinds of answer, or a reward for any.

    `label_words`, `candidates`, `completion` and `messages` are the kinds; exactly one is given, or none if `metric` is
    a function of the user's. Texts name fields of the row in braces.

    Args:
        data: Training rows: a file (.csv, .jsonl or .parquet) or a hub dataset, ``org/name`` or ``org/name@revision``.
        eval_data: Test rows: a file, or a split of the hub dataset; None = cut from the training rows.
        data_config: Configuration of the hub dataset.
        prompt: The text up to the answer. With label words or candidates it ends in ``{label}``, where they stand;
            with a completion it may be empty: then the loss is on the whole text.
        label_words: The word of each label: a mapping, or entries ``label=word``; mere words are those of 0, 1, ...
        candidates: The texts to choose from, in the same form; a single one names a field that holds a list.
        label_field: The field with the label, or with the name of the right candidate.
        completion: The text that follows the prompt; a field that holds a list gives several right answers.
        messages: The field with a conversation, a list of objects with ``role`` and ``content``.
        metric: Of a completion or a conversation: ``f1``, ``exact_match``, ``rouge_l``, a function of the user's, or
            ``loss``, with which nothing is generated. None = f1 for completions, rouge_l for conversations, loss
            where there is no prompt.
        max_new_tokens: Most tokens of a generated text; None = 50 for answers of a line, else 128.
        file: The task file; None = the command line.
    Raises:
        UsageError: what is given does not make a task; the message names the option or the file and key.
    """

    data: str
    eval_data: str | None = None
    data_config: str | None = None
    prompt: str | None = None
    label_words: Mapping[str, str] | None = None
    candidates: Mapping[str, str] | None = None
    label_field: str | None = None
    completion: str | None = None
    messages: str | None = None
    metric: str | None = None
    max_new_tokens: int | None = None
    file: Path | None = field(default=None)

    def __post_init__(self) -> None:
        given = [kind for kind in _USES if getattr(self, kind) is not None]
        if not given and self.is_rewarded:
            given = ["completion"]
        if not given and (self.metric or "").endswith(".py"):
            raise UsageError(f"{self.option('metric')} {self.metric}: name its function, too: {self.metric}:FUNCTION.")
        if not given:
            kinds = ", ".join(map(self.option, list(_USES)[:-1]))
            raise UsageError(
                f"{self.option('data')} {self.data}: say what the answer is, with {kinds} or "
                f"{self.option('messages')}; or give a function that rewards any, with {self.option('prompt')} and "
                f"{self.option('metric')}."
            )
        if len(given) > 1:
            raise UsageError(
                f"{self.option(given[0])} and {self.option(given[1])} are two kinds of answer; give one of them."
            )
        (kind,) = given
        for key in ("prompt", "label_field", "metric", "max_new_tokens"):
            if getattr(self, key) is not None and key not in _USES[kind]:
                raise UsageError(f"{self.option(key)} would have no effect with {self.option(kind)}. Leave it out.")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(f"{self.option('max_new_tokens')} must be at least 1, got {self.max_new_tokens}.")

    @property
    def is_rewarded(self) -> bool:
        """Whether rows are prompts without answers, and a function of the user's says how good a text is."""
        answers = (self.label_words, self.candidates, self.completion, self.messages)
        return answers == (None,) * 4 and self.prompt is not None and ":" in (self.metric or "")

    def option(self, key: str) -> str:
        """Spell a setting as the user gave it."""
        return f"--{key.replace('_', '-')}" if self.file is None else f"'{self.file}', {key}"


_USES: Mapping[str, tuple[str, ...]] = {
    "label_words": ("prompt", "label_field"),
    "candidates": ("prompt", "label_field"),
    "completion": ("prompt", "metric", "max_new_tokens"),
    "messages": ("metric", "max_new_tokens"),
}
"""The kinds of answer, and which of the other settings each reads."""

OWN_KEYS = tuple(field.name for field in dataclasses.fields(OwnTask) if field.name != "file")
"""Keys of a task file, and options of the command line."""


def read_task_file(path: Path) -> OwnTask:
    """Read a task from a YAML file. Its values are text: ``0: No`` needs no quotes.

    Raises:
        UsageError: there is no such file, it is not YAML, or says something else than a task.
    """
    content = read_yaml(path, f"Task file '{path}'", as_text=True)
    if not isinstance(content, dict):
        raise UsageError(f"Task file '{path}': expected settings (name: value), found {kind_of(content)}.")
    settings = {key.replace("-", "_"): value for key, value in content.items()}
    for key, value in settings.items():
        if key not in OWN_KEYS:
            raise UsageError(f"Task file '{path}': there is no setting {key!r}.{near_misses(key, OWN_KEYS)}")
        if not isinstance(value, str) and key not in _NAMED_TEXTS:
            raise UsageError(f"Task file '{path}': {key} is {value!r:.60}; it should be text.")
    return make_spec(settings, path)


def make_spec(settings: Mapping[str, Any], file: Path | None = None) -> OwnTask:
    """Return the task that `settings` describe; settings that are None are not given.

    Raises:
        UsageError: see `OwnTask`.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    where = (lambda key: f"'{file}', {key}") if file else (lambda key: f"--{key.replace('_', '-')}")
    if "data" not in given:
        raise UsageError(f"{where('data')} is missing: give a file of rows, or a hub dataset.")
    for key in _NAMED_TEXTS & given.keys():
        given[key] = _named_texts(given[key], where(key))
    if (count := given.get("max_new_tokens")) is not None and not isinstance(count, int):
        if not count.isdecimal():
            raise UsageError(f"{where('max_new_tokens')} must be a whole number, got {count!r}.")
        given["max_new_tokens"] = int(count)
    return OwnTask(**given, file=file)


_NAMED_TEXTS = {"label_words", "candidates"}


def _named_texts(value: Any, where: str) -> dict[str, str]:
    """Return texts by name from a mapping, or from a list of ``name=text`` or of texts, whose names are 0, 1, ..."""
    if isinstance(value, Mapping):
        pairs = [(label_name(name), text) for name, text in value.items()]
    else:
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
            raise UsageError(f"{where} is {value!r:.60}; it should be texts, such as 0=terrible 1=great.")
        found = [_NAMED.fullmatch(entry) for entry in entries]
        if any(found) and not all(found):
            entry = next(entry for entry, match in zip(entries, found, strict=True) if match is None)
            raise UsageError(f"{where}: {entry!r} has no label in front; expected label=text, as in the others.")
        pairs = [match.groups() if match else (str(index), entries[index]) for index, match in enumerate(found)]
    texts: dict[str, str] = {}
    for name, text in pairs:
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{where}: label {name!r} has {text!r:.60}; it should have a text.")
        if name in texts:
            raise UsageError(f"{where}: label {name!r} is given twice, with {texts[name]!r} and {text!r}.")
        same = [other for other, present in texts.items() if present.strip() == text.strip()]
        if same:
            raise UsageError(
                f"{where}: labels {same[0]!r} and {name!r} have the same text {text.strip()!r}, so none could be told "
                "from the other."
            )
        texts[name] = text
    return texts
