"""Which runs are meant: conditions on fields, metrics and settings, and the names they are known by."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from foretune.errors import UsageError
from foretune.ledger.run import Run, Value

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "~": lambda found, wanted: str(wanted).casefold() in str(found).casefold(),
}
_FORM = re.compile(r"\s*([\w./-]+?)\s*(<=|>=|!=|==|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Condition:
    """``NAME OPERATOR VALUE``, with =, !=, <, <=, >, >= or ~ (contains, in any case).

    Names are the fields of `Run`, `state`, metrics (`final.accuracy`) and settings (`config.steps`). Settings of the
    method and of the tuning scheme also go by their last name, where no field is called so: `lr`, `zo_eps`, `rank`.
    The value ``none`` is that of a field without one; a run that lacks the name meets no condition but ``!=``.
    """

    name: str
    operator: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a condition.

        Raises:
            UsageError: it is of another form.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            raise UsageError(f"--where {text!r} is no condition: give NAME=VALUE, or one of != < <= > >= ~ between.")
        return cls(form[1], form[2], form[3])

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether a run with these values meets it.

        Raises:
            UsageError: the value given is not of the kind it is compared with.
        """
        found = look_up(values, self.name, _ABSENT)
        if found is _ABSENT:
            return self.operator == "!="
        if self.value == "none" or found is None:
            wanted: Any = None if self.value == "none" else self.value
            return self.operator in ("=", "==", "!=") and _OPERATORS[self.operator](found, wanted)
        if self.operator == "~":
            return _OPERATORS["~"](found, self.value)
        return _OPERATORS[self.operator](*self._comparable(found))

    def _comparable(self, found: Any) -> tuple[Any, Any]:
        """Return the value there is and the one given, as things that can be compared."""
        try:
            if isinstance(found, bool):
                return found, {"true": True, "false": False}[self.value.casefold()]
            if isinstance(found, int | float):
                return found, float(self.value)
            if isinstance(found, datetime):
                moment = datetime.fromisoformat(self.value)
                return found, moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (ValueError, KeyError):
            kind = {bool: "true or false", datetime: "a date such as 2026-01-31"}.get(type(found), "a number")
            raise UsageError(f"--where {self}: {self.name} is {kind} ({found}).") from None
        return found if isinstance(found, str) else _words(found), self.value

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value}"


def look_up(values: Mapping[str, Value], name: str, default: Any = None) -> Any:
    """Return what a run's `values` have under a name, as conditions and columns spell it."""
    name = name.removeprefix("--").replace("-", "_").removeprefix("metrics.")
    for full in (name, f"config.{name}", f"config.method.{name}", f"config.tuning.{name}"):
        if full in values:
            return values[full]
    return default


def check_names(names: Iterable[str], all_values: Sequence[Mapping[str, Value]], option: str) -> None:
    """Refuse a name that no run knows.

    Raises:
        UsageError: naming near misses; nothing is refused where there are no runs.
    """
    for name in names:
        if all_values and all(look_up(values, name, _ABSENT) is _ABSENT for values in all_values):
            known = {known.removeprefix("config.method.") for values in all_values for known in values}
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.55)
            hint = f" Did you mean: {', '.join(close)}?" if close else ""
            raise UsageError(f"{option} {name}: no run has it.{hint} 'foretune runs show RUN' lists the names.")


def select(runs: Sequence[Run], where: Iterable[str | Condition] = (), *, sort: str | None = None) -> list[Run]:
    """Return the runs that meet all conditions, in their order or by a name; see `Ledger.query`."""
    conditions = [Condition.parse(entry) if isinstance(entry, str) else entry for entry in where]
    if not conditions and sort is None:
        return list(runs)
    all_values = [run.values() for run in runs]
    check_names([condition.name for condition in conditions], all_values, "--where")
    check_names([sort] if sort else [], all_values, "--sort")
    pairs = [
        (run, values)
        for run, values in zip(runs, all_values, strict=True)
        if all(condition.holds(values) for condition in conditions)
    ]
    if sort:
        pairs.sort(key=lambda pair: _order(look_up(pair[1], sort)))
    return [run for run, _ in pairs]


def _order(value: Any) -> tuple[int, Any]:
    """Sort anything beside anything: nothing, numbers, dates, then words."""
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value) if value == value else (0, 0)  # nan is as good as nothing
    return (2, value.isoformat()) if isinstance(value, datetime) else (3, _words(value))


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
