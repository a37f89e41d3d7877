"""A user's own function, named on the command line or in a run's file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from foretune.errors import UsageError, in_one_line, near_misses


def load_function(value: str, *, option: str) -> Callable[..., Any]:
    """Return the function that `value` names; the module it is in is run.

    Args:
        value: ``package.module:name``, or ``path/to/file.py:name``.
        option: What the user gave it to, for messages, for example ``--objective``.
    Raises:
        UsageError: it is of another form, the module or file is missing or fails, or there is no such function.
    """
    where = f"{option} {value}"
    source, _, name = value.rpartition(":")
    if not source or not name:
        raise UsageError(f"{where}: expected package.module:function or path/to/file.py:function.")
    module = _load_file(Path(source), where) if source.endswith(".py") else _import(source, where)
    try:
        function = getattr(module, name)
    except AttributeError:
        known = [word for word, entry in vars(module).items() if callable(entry) and not word.startswith("_")]
        hint = near_misses(name, known) if known else " It has no function."
        raise UsageError(f"{where}: there is no {name!r} in {source}.{hint}") from None
    if not callable(function):
        raise UsageError(f"{where}: {name!r} is {function!r:.60}; it should be a function.")
    return function


def _import(source: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except Exception as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name and f"{source}.".startswith(f"{error.name}."):
            hint = f" A file is named by its path: {source.replace('.', '/')}.py:function."
        raise UsageError(f"{where}: cannot import {source!r}: {in_one_line(error)}.{hint}") from error


def _load_file(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{where}: there is no file '{path}'.")
    name = str(path.resolve())  # as a module's name, it cannot hide another module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{where}: running '{path}' failed: {in_one_line(error)}.") from error
    return module
