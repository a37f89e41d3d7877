"""The rows of one split, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from foretune.errors import UsageError, near_misses
from foretune.tasks.base import Row, Task

DATA_DIR_VARIABLE = "FORETUNE_DATA"


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

    From ``<data_dir>/<task>/<split>.jsonl`` where `data_dir` (or else the environment variable FORETUNE_DATA)
    is set, and then only from there; from the hub otherwise.

    Raises:
        UsageError: a folder or file is missing, empty or not JSON Lines, a row lacks a field or has a value
            out of range (the message names file, line and field), or no hub source could be loaded.
    """
    if split in task.files:
        return load_file(task, split, Path(task.files[split]))
    if (folder := _data_folder(data_dir)) is not None:
        return _load_local(task, split, *folder)
    return _load_hub(task, split)


def has_split(task: Task, split: str, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Whether there is a local file of this split; of the hub nothing is asked, and the answer is no."""
    folder = _data_folder(data_dir)
    return split in task.files or (folder is not None and _split_path(task, split, folder[0]).is_file())


def load_file(task: Task, split: str, path: Path) -> Split:
    """Load the rows of one JSON Lines file.

    Raises:
        UsageError: it is missing, empty or not JSON Lines, or a row lacks a field or has a value out of range.
    """
    if not path.is_file():
        raise UsageError(f"'{path}' does not exist; task {task.name!r} needs its {split} rows there.")
    rows = list(_read_jsonl(task, path))
    if not rows:
        raise UsageError(f"'{path}' has no rows; expected one JSON object a line.")
    return Split(task, split, rows, str(path))


def _data_folder(data_dir: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """Return the folder of local rows and where it was named; None for the hub."""
    if data_dir is not None:
        return Path(data_dir), "data_dir"
    if from_environment := os.environ.get(DATA_DIR_VARIABLE):
        return Path(from_environment), f"environment variable {DATA_DIR_VARIABLE}"
    return None


def _split_path(task: Task, split: str, data_dir: Path) -> Path:
    return data_dir / task.name / f"{split}.jsonl"


def _load_local(task: Task, split: str, data_dir: Path, option: str) -> Split:
    if not data_dir.is_dir():
        raise UsageError(f"{option} is '{data_dir}', which is not a folder.")
    folder = data_dir / task.name
    if not folder.is_dir():
        known = [entry.name for entry in data_dir.iterdir() if entry.is_dir()]
        hint = near_misses(task.name, known) if known else " It has no folders at all."
        raise UsageError(f"{option} '{data_dir}' has no folder {task.name!r} for the task.{hint}")
    return load_file(task, split, _split_path(task, split, data_dir))


def _read_jsonl(task: Task, path: Path) -> Iterator[Row]:
    """Yield the checked rows of a JSON Lines file; blank lines are skipped."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"'{path}', line {number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    problem = f"{error.msg} at column {error.colno}"
                    raise UsageError(f"{where}: not valid JSON ({problem}).") from error
                task.check_row(row, where)
                yield row
    except UnicodeDecodeError as error:
        raise UsageError(f"'{path}' is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror}.") from error


def _load_hub(task: Task, split: str) -> Split:
    import datasets  # seconds to import, and not needed for local rows
    from datasets.exceptions import DatasetsError

    failures = []
    for source in task.sources:
        try:
            there = source.splits.get(split, split)
            rows = datasets.load_dataset(**source.arguments(), split=there)
        # OSError covers the network and missing datasets, ValueError an unknown configuration or split,
        # RuntimeError a dataset that still needs a loading script
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            first_line = str(error).strip().partition("\n")[0] or type(error).__name__
            failures.append(f"{source}: {first_line}")
        else:
            return Split(task, split, rows, f"hub dataset {source}, split {there}")
    raise UsageError(
        f"Could not load the {split} split of task {task.name!r} from the hub. Tried {'; '.join(failures)}. "
        f"For local rows set data_dir (or {DATA_DIR_VARIABLE}) to a folder with "
        f"{task.name}/{task.train_split}.jsonl and {task.name}/{task.eval_split}.jsonl."
    )
