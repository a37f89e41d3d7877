"""The flags of one command while they are translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foretune.errors import UsageError, near_misses
from foretune.migration.flags import Flag, Given
from foretune.migration.result import Note, NoteKind

_ORDER = (
    *(
        "model",
        "task",
        "data_dir",
        "template",
        "objective",
        "shots",
        "num_train",
        "num_dev",
        "num_eval",
        "train_set_seed",
    ),
    *("max_length", "dtype", "device", "tuning", "method", "space", "direction", "update", "schedule", "lr", "zo_eps"),
    *("num_directions", "steps", "batch_size", "gradient_accumulation_steps", "lr_scheduler", "warmup_steps", "seed"),
    *("demonstrations", "demonstration_sets", "calibration", "baseline"),
)
"""Options in the order in which people think of them; others come last."""


class Reading:
    """Flags as they were given, and what they have become so far.

    Args:
        code: Name of the research code, for messages.
        flags: The flags it knows.
        given: What the command gives, in order; of a flag that is given twice the last one counts, as in the original.
    """

    def __init__(self, code: str, flags: Mapping[str, Flag], given: Sequence[Given]) -> None:
        self.code = code
        self.options: dict[str, Any] = {}
        self.notes: list[Note] = []
        self._flags = flags
        self._given: dict[str, Given] = {}
        self._taken: set[str] = set()
        for flag in given:
            if (earlier := self._given.get(flag.name)) is not None and earlier.text != flag.text:
                self.note("ignored there", earlier.spelled, f"a later {flag.spelled} overrides it")
            self._given[flag.name] = flag

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a flag, `default` where it is not given."""
        self._taken.add(name)
        if name not in self._given:
            return default
        value = self._given[name].value(self._flags[name].kind)
        return default if value is None else value

    def has(self, name: str) -> bool:
        """Say whether a flag is given; it is not yet translated by that."""
        return name in self._given

    def knows(self, name: str) -> bool:
        """Say whether the code has such a flag."""
        return name in self._flags

    def spelled(self, name: str) -> str:
        """Return how the command gives a flag; its bare name where it does not."""
        return self._given[name].spelled if name in self._given else f"--{name}"

    def get_or_assume(self, name: str, published: Any) -> Any:
        """Return the value of a flag, or the published one with a note."""
        if (value := self.get(name)) is None:
            self.note("not given", f"--{name}", str(published))
            return published
        return value

    def set(self, option: str, value: Any) -> None:
        """Give an option of foretune a value."""
        self.options[option] = value

    def sorted_options(self) -> dict[str, Any]:
        """Return the options that were set, in an order that reads well."""

        def place(option: str) -> int:
            group = option.partition(".")[0]
            return _ORDER.index(group) if group in _ORDER else len(_ORDER)

        return dict(sorted(self.options.items(), key=lambda item: place(item[0])))

    def note(self, kind: NoteKind, subject: str, text: str, source: str = "") -> None:
        """Add a remark; `subject` is a flag's name, or words of its own."""
        spelled = self.spelled(subject) if subject in self._given else subject
        note = Note(kind, spelled, text, source)
        if note not in self.notes:
            self.notes.append(note)

    def refuse(self, name: str, text: str) -> UsageError:
        """Return the error that a flag has no equal and cannot be left out."""
        return UsageError(f"{self.spelled(name)} ({self.code}): {text}")

    def choose(self, name: str, value: str, known: Mapping[str, Any]) -> Any:
        """Return what a value of a flag stands for.

        Raises:
            UsageError: the code does not know the value.
        """
        if value not in known:
            raise UsageError(f"--{name}={value}: {self.code} has no {name} {value!r}.{near_misses(value, known)}")
        return known[value]

    def finish(self) -> None:
        """Translate the flags that stand for themselves, and name those that are left."""
        for name, given in self._given.items():
            flag = self._flags.get(name)
            if name in self._taken:
                continue
            if flag is None:
                self.note("unknown", given.spelled, f"{self.code} does not know it.{self._close(name)}")
            elif flag.reader is not None:
                if given.value(flag.kind):
                    self.note("ignored there", given.spelled, f"{self.code} reads it with {flag.reader} only")
            elif (value := given.value(flag.kind)) is None:
                continue
            elif flag.option is not None:
                self.set(flag.option, value)
            elif flag.lacks is not None and value not in flag.neutral:
                self.note("no counterpart", given.spelled, flag.lacks)

    def _close(self, name: str) -> str:
        hint = near_misses(name.replace(" ", "_"), self._flags).partition(" Available:")[0]
        return f"{hint} It is left out."
