"""Parts by name: what `--space NAME --space.OPTION VALUE` and a journal's header mean.

The name of a part is that of its module; every module of a part's folder is found by itself.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from foretune.errors import UsageError, near_misses
from foretune.types import AbstractDirection, AbstractPart, AbstractSchedule, AbstractSpace, AbstractUpdate, Parts

AXES: dict[str, tuple[str, type[AbstractPart]]] = {
    "space": ("foretune.spaces", AbstractSpace),
    "direction": ("foretune.directions", AbstractDirection),
    "update": ("foretune.updates", AbstractUpdate),
    "schedule": ("foretune.schedules", AbstractSchedule),
}
"""The parts of a method that can be replaced by name: the package of each axis, and what its parts are.

(Estimators carry settings every method shares, such as zo_eps, and are chosen by the method.)
"""


@functools.cache
def part_classes(axis: str) -> Mapping[str, type[AbstractPart]]:
    """Return the parts of an axis by name, sorted."""
    package_name, kind = AXES[axis]
    package = importlib.import_module(package_name)
    found = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f"{package_name}.{name}")
        for value in vars(module).values():
            is_own = inspect.isclass(value) and value.__module__ == module.__name__
            if is_own and issubclass(value, kind) and not inspect.isabstract(value):
                found[name] = value
    return found


def part_class(axis: str, name: str) -> type[AbstractPart]:
    """Return the part called `name`.

    Raises:
        UsageError: no such part; near misses are suggested.
    """
    classes = part_classes(axis)
    if name not in classes:
        raise UsageError(f"Unknown {axis} {name!r}.{near_misses(name, classes)}")
    return classes[name]


def compose(parts: Parts, changes: Mapping[str, Mapping[str, Any]]) -> Parts:
    """Return `parts` with some of them replaced, or given other settings.

    A part that takes the place of another keeps the settings both have (a rank, a weight decay, a factor on the
    learning rate of matrices), so that what was said of the method stays true; the rest are its defaults.

    Args:
        parts: A method's own parts.
        changes: For each axis the settings of the new part and, as ``name``, which part that is; without a name,
            the settings are changes to the method's own part.
    Raises:
        UsageError: an unknown part or setting (near misses suggested), or a setting out of range.
    """
    made: dict[str, Any] = {}
    for axis, change in changes.items():
        settings = {name: value for name, value in change.items() if name != "name"}
        own = getattr(parts, axis)
        recipe = part_class(axis, change["name"]) if "name" in change else type(own)
        known = [field.name for field in fields(recipe)]  # pyrefly: ignore[bad-argument-type]
        for name in settings:
            if name not in known:
                title = change.get("name", type(own).__name__)
                raise UsageError(f"The {axis} {title!r} has no option {name!r}.{near_misses(name, known)}")
        kept = {field.name: getattr(own, field.name) for field in fields(own) if field.name in known}
        made[axis] = recipe(**{**kept, **settings})
    return replace(parts, **made)
