"""What every format is read into."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from foretune.ledger.run import Point, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One run as another program logged it.

    Attributes:
        id: The same whenever this log is read, and unlike that of another.
        name: What people call it.
        source: The format.
        status: How it ended; `imported` where the log does not say.
        config: Its settings, as they are called there.
        points: Figures by step, in order; names as `scalar_name` spells them.
        metrics: What the log itself says about the whole run, by the names of `Run.metrics`, or `last.NAME`.
        started, ended: Where the log says so.
        steps, total_steps: Optimizer steps made and asked for, where the log says so.
        seconds: Wall clock, where the log says so.
        output: Its folder or file.
    """

    id: str
    name: str
    source: str
    status: Status = "imported"
    config: dict[str, Any] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    steps: int | None = None
    total_steps: int | None = None
    seconds: float | None = None
    output: str


class AbstractReader(abc.ABC):
    """Reads one format.

    Attributes:
        source: Its name.
        what: What its files are, in a line.
    """

    source: ClassVar[str]
    what: ClassVar[str]

    @abc.abstractmethod
    def knows(self, path: Path) -> bool:
        """Whether this file, or this folder as a whole, is of the format; nothing is read for longer than a moment."""

    @abc.abstractmethod
    def read(self, path: Path) -> list[Log]:
        """Read a path that it knows.

        Raises:
            UsageError: it is damaged; the file and the place in it are named.
        """


def scalar_name(name: str) -> str:
    """Return the name that metrics.jsonl has for a figure: ``train/loss`` is `loss`, ``eval/loss`` is `eval_loss`."""
    name = name.removeprefix("train/")
    return "eval_" + name.removeprefix("eval/") if name.startswith("eval/") else name


def by_step(pairs: Iterable[tuple[int, Mapping[str, float]]]) -> list[Point]:
    """Put figures of one step together, the last of a name counting, in the order of steps."""
    found: dict[int, dict[str, float]] = {}
    for step, figures in pairs:
        found.setdefault(step, {}).update(figures)
    return [Point(step, found[step]) for step in sorted(found) if found[step]]


def id_of(source: str, *parts: object) -> str:
    """Return an id made of what tells a log from others."""
    digest = hashlib.sha256("\0".join(map(str, (source, *parts))).encode()).hexdigest()
    return digest[:12]


def at(seconds: float) -> datetime:
    """Return the time of a Unix clock."""
    return datetime.fromtimestamp(seconds, UTC)
