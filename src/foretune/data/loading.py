"""The rows of one split, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from foretune.data.files import read_rows
from foretune.errors import UsageError, first_line_of, near_misses
from foretune.tasks.base import HubSource, Row, Task

DATA_DIR_VARIABLE = "FORETUNE_DATA"
HUB_ORIGIN = "hub dataset"
"""How the origin of rows begins that are not of a file."""

Loaded = TypeVar("Loaded")


class RawRows(Protocol):
    """What a list of rows and a `datasets.Dataset` have in common."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Split:
    """The rows of one split and where they came from; a row is checked when it is read.

    Args:
        task: Whose rows they are.
        name: The split's name.
        rows: The raw rows.
        origin: A file path, or a hub dataset with its split.
    """

    task: Task
    name: str
    rows: RawRows
    origin: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        self.task.check_row(row, f"{self.origin}, row {index}")
        return row


def load_split(task: Task, split: str, data_dir: str | os.PathLike[str] | None = None) -> Split:
    """Load one split of `task`.

    From the task's own file where it names one; else from ``<data_dir>/<task>/<split>.jsonl`` where `data_dir` (or
    else the environment variable FORETUNE_DATA) is set, and then only from there; from the hub otherwise. The user's
    own data is never looked for in that folder.

    Raises:
        UsageError: a folder or file is missing, empty or not JSON Lines, a row lacks a field or has a value
            out of range (the message names file, line and field), or no hub source could be loaded.
    """
    if split in task.files:
        return load_file(task, split, Path(task.files[split]))
    if not task.own_data and (folder := _data_folder(data_dir)) is not None:
        return _load_local(task, split, *folder)
    return _load_hub(task, split)


def has_split(task: Task, split: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether there is a local file of this split; of the hub nothing is asked, and the answer is no."""
    if split in task.files or task.own_data:
        return split in task.files
    folder = _data_folder(data_dir)
    return folder is not None and _split_path(task, split, folder[0]).is_file()


def load_file(task: Task, split: str, path: Path) -> Split:
    """Load the rows of one file, see `foretune.data.files`.

    Raises:
        UsageError: it is missing, empty or broken, or a row lacks a field or has a value out of range.
    """
    if not path.is_file():
        raise UsageError(f"'{path}' does not exist; task {task.name!r} needs its {split} rows there.")
    rows = []
    for where, row in read_rows(path):
        task.check_row(row, where)
        rows.append(row)
    if not rows:
        raise UsageError(f"'{path}' has no rows.")
    return Split(task, split, rows, str(path))


def _data_folder(data_dir: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """Return the folder of local rows and where it was named; None for the hub."""
    if data_dir is not None:
        return Path(data_dir), "--data-dir"
    if from_environment := os.environ.get(DATA_DIR_VARIABLE):
        return Path(from_environment), f"${DATA_DIR_VARIABLE}"
    return None


def _split_path(task: Task, split: str, data_dir: Path) -> Path:
    return data_dir / task.name / f"{split}.jsonl"


def _load_local(task: Task, split: str, data_dir: Path, option: str) -> Split:
    if not data_dir.is_dir():
        raise UsageError(f"{option} {data_dir} is not a folder.")
    folder = data_dir / task.name
    if not folder.is_dir():
        known = [entry.name for entry in data_dir.iterdir() if entry.is_dir()]
        hint = near_misses(task.name, known) if known else " It has no folders at all."
        raise UsageError(f"{option} {data_dir} has no folder {task.name!r} for the task.{hint}")
    return load_file(task, split, _split_path(task, split, data_dir))


def load_hub_split(source: HubSource, split: str, commit: str | None = None) -> RawRows:
    """Load the rows of one of our splits from one hub dataset, at `commit` where one is given."""
    import datasets  # seconds to import, and not needed for local rows

    arguments: dict[str, Any] = source.arguments() | ({"revision": commit} if commit else {})
    return datasets.load_dataset(**arguments, split=source.splits.get(split, split))


def first_source(task: Task, wanted: str, load: Callable[[HubSource], Loaded]) -> Loaded:
    """Return what `load` makes of the first of the task's sources for which it does not fail.

    Raises:
        UsageError: it failed for all; the message says what was wanted, and names every source with its failure.
    """
    from datasets.exceptions import DatasetsError

    failures = []
    for source in task.sources:
        try:
            return load(source)
        # OSError covers the network and missing datasets, ValueError an unknown configuration or split,
        # RuntimeError a dataset that still needs a loading script
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            failures.append(f"{source}: {first_line_of(error)}")
    if task.own_data:
        raise UsageError(f"Could not load the rows from the hub: {'; '.join(failures)}.")
    raise UsageError(
        f"Could not load {wanted} of task {task.name!r} from the hub. Tried {'; '.join(failures)}. "
        f"For local rows set --data-dir (or {DATA_DIR_VARIABLE}) to a folder with "
        f"{task.name}/{task.train_split}.jsonl and {task.name}/{task.eval_split}.jsonl; "
        "'foretune data fetch' writes it where there is a network."
    )


def _load_hub(task: Task, split: str) -> Split:
    def load(source: HubSource) -> Split:
        origin = f"{HUB_ORIGIN} {source}, split {source.splits.get(split, split)}"
        return Split(task, split, load_hub_split(source, split), origin)

    return first_source(task, f"the {split} split", load)
