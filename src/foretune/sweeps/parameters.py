"""What a sweep file says of one parameter: the values it takes, or the range it is drawn from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foretune.errors import UsageError, near_misses

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
_RANGE_KEYS = ("min", "max", "q", "distribution")
_KEYS = ("value", "values", *_RANGE_KEYS)
_DISTRIBUTIONS = {
    "uniform": {},
    "int_uniform": {"integer": True},
    "q_uniform": {"stepped": True},
    "log_uniform_values": {"log": True},
    "q_log_uniform_values": {"log": True, "stepped": True},
    "log_uniform": {"log": True, "exponents": True},
}
"""Distributions as W&B names them."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values to choose from, in the order of the file."""

    values: tuple[Any, ...]

    def draw(self, random: np.random.RandomState) -> Any:
        """Return one, each as likely as any other."""
        return self.values[random.randint(len(self.values))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An interval with both ends.

    Attributes:
        low, high: The ends.
        log: Whether the logarithm is uniform.
        step: Distance of the values from `low` on; None for all numbers.
        integer: Whether values are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def draw(self, random: np.random.RandomState) -> float | int:
        """Return a value, rounded to six digits: folders and tables show what was run."""
        if self.integer:
            return int(random.randint(int(self.low), int(self.high) + 1))
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + (high - low) * float(random.random_sample())
        value = math.exp(value) if self.log else value
        if self.step is not None:
            value = self.low + round((value - self.low) / self.step) * self.step
        return float(f"{min(max(value, self.low), self.high):.6g}")


Parameter = Values | Range


def read_parameter(name: str, given: Any, place: str) -> Parameter:
    """Read one entry of `parameters`.

    Args:
        name: The parameter.
        given: ``{value: x}``, ``{values: [...]}`` or ``{min: a, max: b}`` with a ``distribution`` of W&B's; or,
            shorter, a value or a list of values.
        place: File and key, for messages.
    Raises:
        UsageError: naming the place, what stands there and what would be right.
    """
    if isinstance(given, list):
        given = {"values": given}
    elif not isinstance(given, Mapping):
        given = {"value": given}
    where = f"{place}.{name}"
    for key in given:
        if key == "parameters":
            raise UsageError(f"{where}: nested parameters are not read; write {name}.NAME instead.")
        if key not in _KEYS:
            raise UsageError(f"{where} has no {key!r}.{near_misses(str(key), _KEYS)}")
    forms = [key for key in ("value", "values", "min") if key in given]
    if "max" in given and "min" not in given:
        raise UsageError(f"{where} has max and no min.")
    if len(forms) != 1:
        found = " and ".join(forms) or "none of them"
        raise UsageError(f"{where} must have one of value, values, or min and max; found {found}.")
    if forms != ["min"]:
        distribution = given.get("distribution")
        if distribution not in (None, "categorical", "constant") or "q" in given:
            raise UsageError(f"{where}: a distribution needs min and max, and here are {forms[0]}.")
        return _read_values(where, given)
    return _read_range(where, given)


def _read_values(where: str, given: Mapping[str, Any]) -> Values:
    if "value" in given:
        return Values((_as_number(given["value"]),))
    values = given["values"]
    if not isinstance(values, list):
        raise UsageError(f"{where}.values must be a list, got {values!r}.")
    if not values:
        raise UsageError(f"{where}.values is empty: give at least one.")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UsageError(f"{where}.values has {value!r} twice.")
    return Values(tuple(map(_as_number, values)))


def _as_number(value: Any) -> Any:
    """Read 1e-6 as a number: to YAML, which wants a point in it, it is text."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def _read_range(where: str, given: Mapping[str, Any]) -> Range:
    ends = {}
    for key in ("min", "max"):
        if key not in given:
            raise UsageError(f"{where} has min and no max.")
        ends[key] = _number(f"{where}.{key}", given[key])
    whole = all(isinstance(given[key], int) for key in ends)
    name = given.get("distribution", "int_uniform" if whole else "uniform")
    if name not in _DISTRIBUTIONS:
        raise UsageError(f"{where}.distribution {name!r} is not known.{near_misses(str(name), _DISTRIBUTIONS)}")
    kind = _DISTRIBUTIONS[name]
    if "q" in given and not kind.get("stepped"):
        raise UsageError(f"{where}.q has no effect with {name}: use q_uniform, or leave it out.")
    low, high = ends["min"], ends["max"]
    if kind.get("exponents"):
        low, high = math.exp(low), math.exp(high)
    if not low < high:
        raise UsageError(f"{where}: the range from {given['min']} to {given['max']} is empty: min must be below max.")
    if kind.get("log") and low <= 0:
        raise UsageError(f"{where}.min must be positive for {name}, got {given['min']}.")
    if kind.get("integer") and not whole:
        raise UsageError(f"{where}: int_uniform needs whole numbers, got {given['min']} and {given['max']}.")
    step = None
    if kind.get("stepped"):
        step = _number(f"{where}.q", given.get("q", 1))
        if not 0 < step <= high - low:
            raise UsageError(f"{where}.q must be above 0 and at most {high - low:g}, got {step:g}.")
    return Range(low=low, high=high, log=kind.get("log", False), step=step, integer=kind.get("integer", False))


def _number(where: str, value: Any) -> float:
    """Read a number; YAML reads 1e-6, without a point, as text."""
    try:
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        pass
    raise UsageError(f"{where} must be a number, got {value!r}.")
