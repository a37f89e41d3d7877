"""One small registry: a folder's modules register themselves on import; unknown names suggest near misses."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from foretune.errors import UsageError, near_misses

T = TypeVar("T")
K = TypeVar("K")


class Registry(Generic[T]):
    """Names to entries of one family (methods, ...), filled by importing every module of a package.

    Args:
        family: The word used in messages, for example ``"method"``.
        package: The package whose modules register entries, for example ``"foretune.methods"``.
    """

    def __init__(self, family: str, package: str) -> None:
        self.family = family
        self._package = package
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str, *, aliases: Sequence[str] = ()) -> Callable[[T], T]:
        """Return a decorator that adds its object under `name`; a name taken twice is our own mistake.

        Args:
            name: What lists and files show.
            aliases: Other spellings that `get` understands, those of published code for example.
        """

        def add(entry: T) -> T:
            for word in (name, *aliases):
                if word in self._entries or word in self._aliases:
                    raise ValueError(f"{self.family} {word!r} is registered twice")
            self._entries[name] = entry
            self._aliases |= dict.fromkeys(aliases, name)
            return entry

        return add

    def _load(self) -> None:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
                importlib.import_module(f"{self._package}.{module}")
            self._loaded = True

    def get(self, name: str) -> T:
        """Return the entry called `name`, or with that alias.

        Raises:
            UsageError: no such name; the message lists near misses and every name there is.
        """
        self._load()
        name = self._aliases.get(name, name)
        if name not in self._entries:
            raise UsageError(f"Unknown {self.family} {name!r}.{near_misses(name, self._entries)}")
        return self._entries[name]

    def aliases(self, name: str) -> tuple[str, ...]:
        """Other spellings of an entry."""
        self._load()
        return tuple(alias for alias, target in self._aliases.items() if target == name)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def of(self, kind: type[K]) -> RegistryPart[K]:
        """Return the part of this registry whose entries are subclasses of `kind`."""
        return RegistryPart(self, kind)


class RegistryPart(Generic[K]):
    """The classes of one kind in a registry; names are unique over all kinds.

    Args:
        whole: A registry of classes.
        kind: What the entries of the part are subclasses of.
    """

    def __init__(self, whole: Registry[Any], kind: type[K]) -> None:
        self._whole = whole
        self._kind = kind

    def register(self, name: str, *, aliases: Sequence[str] = ()) -> Callable[[type[K]], type[K]]:
        """Return a decorator that adds its class to the registry, as `Registry.register`."""
        return self._whole.register(name, aliases=aliases)

    def get(self, name: str) -> type[K]:
        """Return the class called `name`, or with that alias.

        Raises:
            UsageError: no such name, or one of another kind.
        """
        entry = self._whole.get(name)
        if not issubclass(entry, self._kind):
            raise UsageError(f"{self._whole.family.capitalize()} {name!r} is of another kind; here: {', '.join(self)}.")
        return entry

    def aliases(self, name: str) -> tuple[str, ...]:
        """Other spellings of an entry."""
        return self._whole.aliases(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._whole if issubclass(self._whole.get(name), self._kind))
