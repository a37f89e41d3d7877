"""The table of what users get wrong: its rows are in the YAML files beside this module, one file an area.

A file has a `title`, words `about` the area, and `rows`, each with

- `did`: what the user did, which names the test;
- `command`: the command line; ``...`` in it stands for `REST`, what a command needs that works;
- `files`: texts of files that the user wrote, by name; `before`: what happened to files before, see `deeds.py`;
- `says`: the one line that the user reads behind ``foretune: error: ``, the whole of it; ``...`` stands for any text;
- `code`: the exit code, 2 if not given;
- `leaves`: what the command leaves behind in the folder it is run in; all the rest is as it was, to the byte;
- `loads`: whether the weights of a model are read before the mistake shows; they are not, if not given;
- `resumes`: the run that goes on afterwards, once `then` is done (as `before`), and ends bit for bit as if nothing had
  happened;
- `largest_file`: the bytes that a file may have, as on a disk that is full, or a file with that many more or fewer;
  `interrupt`: at which moment Ctrl-C is pressed, see `moments.py`;
- `advice`: what to do, where the message does not say it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
AREAS = ("options", "models", "rows", "runs", "interrupts", "evaluations", "sweeps", "ledgers", "others")
"""The files, in the order of the page that is made of them."""

REST: Mapping[str, str] = {
    "train": "--model model --task sst2 --data-dir data --output new --steps 6 --eval-steps 3 --log-steps 2 "
    "--batch-size 4 --num-train 20 --num-dev 8 --num-eval 12 --lr 1e-3 --device cpu",
    "train --data": "--model model --output new --steps 2 --batch-size 2 --lr 1e-3 --device cpu",
    "probe": "--model model --task sst2 --data-dir data --num-train 20 --num-dev 8 --num-eval 12 --device cpu",
    "evaluate": "--model model --task sst2 --data-dir data --num-eval 12 --device cpu",
    "sweep": "--model model --task sst2 --data-dir data --output new",
}
"""What ``...`` stands for behind the first word of a command, or behind `foretune train` with an option."""


def in_full(command: str) -> list[str]:
    """Return the words of a command, with what ``...`` stands for."""
    first, *others = shlex.split(command)
    key = next((key for key in REST if key.partition(" ")[0] == first and key.partition(" ")[2] in others), first)
    rest = shlex.split(REST.get(key, ""))
    return [first, *(word for other in others for word in (rest if other == "..." else [other]))]


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """A row; see the top of this file."""

    area: str
    did: str
    command: str
    says: str
    code: int = 2
    files: Mapping[str, str] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    loads: bool = False
    resumes: str | None = None
    then: tuple[str, ...] = ()
    largest_file: int | str | None = None
    interrupt: str | None = None
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.area}: {self.did}"

    @property
    def words(self) -> list[str]:
        """The command line, in full."""
        return in_full(self.command)

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the whole line is to match."""
        return re.compile(".*".join(map(re.escape, f"foretune: error: {self.says}".split("..."))))


@dataclass(frozen=True, kw_only=True)
class Area:
    """The rows of one file.

    Args:
        title: Heading of the page's section.
        about: What is said there, and how files of the rows came about.
        rows: In order.
    """

    title: str
    about: str
    rows: tuple[BadInput, ...]


def load_area(name: str) -> Area:
    """Read one file.

    Raises:
        ValueError: a row has a key that means nothing, or lacks one.
    """
    content: dict[str, Any] = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    known = {entry.name for entry in fields(BadInput)} - {"area"}
    rows = []
    for row in content["rows"]:
        if unknown := row.keys() - known:
            raise ValueError(f"{name}.yaml, {row.get('did')}: {', '.join(sorted(unknown))} means nothing")
        lists = {key: tuple(row.get(key, ())) for key in ("before", "leaves", "then")}
        rows.append(BadInput(area=name, **{**row, **lists}))
    return Area(title=content["title"], about=content["about"], rows=tuple(rows))


def load_table() -> list[BadInput]:
    """Return all rows."""
    return [row for name in AREAS for row in load_area(name).rows]
