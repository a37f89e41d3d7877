"""One small registry: a folder's modules register themselves on import; unknown names suggest near misses."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from foretune.errors import UsageError, near_misses

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to entries of one family (methods, ...), filled by importing every module of a package.

    Args:
        family: The word used in messages, for example ``"method"``.
        package: The package whose modules register entries, for example ``"foretune.methods"``.
    """

    def __init__(self, family: str, package: str) -> None:
        self._family = family
        self._package = package
        self._entries: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds its object under `name`; a name taken twice is our own mistake."""

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self._family} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{self._package}.{module}")
            self._loaded = True

    def get(self, name: str) -> T:
        """Return the entry called `name`.

        Raises:
            UsageError: no such name; the message lists near misses and every name there is.
        """
        self._load()
        if name not in self._entries:
            raise UsageError(f"Unknown {self._family} {name!r}.{near_misses(name, self._entries)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))
