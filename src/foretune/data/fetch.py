"""Download the rows of tasks once, into the folder form that ``--data-dir`` reads.

    DIR/<task>/<split>.jsonl    the rows, as the hub has them
    DIR/<task>/source.json      where they came from, and the hash of each file

A file is renamed into place when it is complete and listed, so a download that was interrupted goes on where it
stopped, and a file that is there under its hash is never read twice from the hub. A file of other content is somebody's
own and is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foretune.data.loading import RawRows, first_source, load_hub_split
from foretune.errors import UsageError
from foretune.tasks.base import HubSource, Task

SOURCE_NAME = "source.json"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One split's file.

    Args:
        hub_split: The split's name on the hub.
        num_rows: Rows in the file.
        sha256: Of its bytes.
    """

    hub_split: str
    num_rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FetchedTask:
    """What ``source.json`` says.

    Args:
        task: The task's name.
        dataset, config, revision: The hub source that was asked.
        commit: The commit that `revision` was then; None where the hub did not say (a local folder, a cached copy).
        datasets_version: Version of the library that read it.
        files: Our splits.
    """

    task: str
    dataset: str
    config: str | None
    revision: str | None
    commit: str | None
    datasets_version: str
    files: Mapping[str, FetchedFile]


def hub_splits(task: Task) -> tuple[str, ...]:
    """Return the splits of a task that the hub has: for training, evaluation and the masked-LM test, where it differs.

    Rows that are cut from the training split for evaluation are no split of their own.
    """
    splits = [task.train_split, *([] if task.cuts_eval_from_train else [task.eval_split])]
    if task.masked is not None and task.masked.test_split is not None:
        splits.append(task.masked.test_split)
    return tuple(dict.fromkeys(splits))


def fetch_task(task: Task, data_dir: str | os.PathLike[str]) -> tuple[FetchedTask, tuple[str, ...]]:
    """Download what is missing of a task's splits.

    All splits come from one source at one commit, also where a download goes on.

    Args:
        task: The task.
        data_dir: Folder of all tasks; made where it is not there.
    Returns:
        What ``source.json`` now says, and the splits that were downloaded.
    Raises:
        UsageError: a file is there with other content, no source could be loaded (the message names all), or a row
            is none of the task's.
    """
    folder = Path(data_dir) / task.name
    before = read_source(folder)
    missing = [split for split in hub_splits(task) if not _is_there(folder, split, before)]
    if before is not None and not missing:
        return before, ()
    if before is not None and len(missing) < len(hub_splits(task)):
        task = replace(task, sources=(_source_of(task, before, folder),))
    else:
        before = None

    def load(source: HubSource) -> tuple[FetchedTask, list[RawRows]]:
        commit = _commit(source) if before is None else before.commit
        rows = [load_hub_split(source, split, commit) for split in missing]
        place = {"dataset": source.dataset, "config": source.config, "revision": source.revision, "commit": commit}
        files = {} if before is None else before.files
        return FetchedTask(task=task.name, **place, datasets_version=version("datasets"), files=files), rows

    fetched, loaded = first_source(task, f"the {' and '.join(missing)} rows", load)
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in zip(missing, loaded, strict=True):
        fetched = _write(task, fetched, folder, split, rows)
    return fetched, tuple(missing)


def check_task(folder: Path) -> FetchedTask:
    """Compare the files of one task's folder with its ``source.json``.

    Raises:
        UsageError: it was not fetched, or a file is missing or is not the one that was fetched.
    """
    fetched = read_source(folder)
    if fetched is None:
        raise UsageError(f"'{folder}' has no {SOURCE_NAME}: its rows were not fetched, so there is nothing to compare.")
    for split in fetched.files:
        if not _is_there(folder, split, fetched):
            raise UsageError(f"'{_path(folder, split)}' is missing; fetch task {fetched.task!r} again.")
    return fetched


def read_source(folder: Path) -> FetchedTask | None:
    """Read a folder's ``source.json``; None where there is none.

    Raises:
        UsageError: it is not what `fetch_task` writes.
    """
    path = folder / SOURCE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {split: FetchedFile(**described) for split, described in content.pop("files").items()}
        return FetchedTask(**content, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"'{path}' cannot be read as the record of a download ({error}); move it away with the files beside it."
        ) from error


def _is_there(folder: Path, split: str, fetched: FetchedTask | None) -> bool:
    """Whether a split's file is there as it was fetched.

    Raises:
        UsageError: another file is there.
    """
    path = _path(folder, split)
    if not path.exists():
        return False
    if fetched is None or split not in fetched.files:
        raise UsageError(f"'{path}' is there and was not fetched; move it away, or give another folder.")
    digest, expected = _sha256(path), fetched.files[split].sha256
    if digest != expected:
        raise UsageError(
            f"'{path}' has changed since it was fetched: its SHA-256 is {digest[:12]}..., {SOURCE_NAME} says "
            f"{expected[:12]}.... Move it away to fetch it again."
        )
    return True


def _source_of(task: Task, fetched: FetchedTask, folder: Path) -> HubSource:
    """Return the source from which the rest must come, because the first files came from there."""
    asked = (fetched.dataset, fetched.config, fetched.revision)
    for source in task.sources:
        if (source.dataset, source.config, source.revision) == asked:
            return source
    raise UsageError(
        f"'{folder}' was fetched from {HubSource(*asked)}, which is no source of task {task.name!r} any more; "
        "move it away to fetch the task again."
    )


def _commit(source: HubSource) -> str | None:
    """Ask the hub which commit a source's revision is, so that all splits are of one."""
    import datasets

    # of a hub dataset the library's hash is the commit, of a local folder something shorter
    arguments: dict[str, Any] = source.arguments()
    hash_of_source = datasets.load_dataset_builder(**arguments).hash or ""
    return hash_of_source if re.fullmatch("[0-9a-f]{40}", hash_of_source) else None


def _write(task: Task, fetched: FetchedTask, folder: Path, split: str, rows: RawRows) -> FetchedTask:
    """Write a split's file, list it in ``source.json``, and only then rename it to its name."""
    hub_split = _source_of(task, fetched, folder).splits.get(split, split)
    part = folder / f"{split}.jsonl.part"
    with part.open("w", encoding="utf-8", newline="\n") as lines:
        for index in range(len(rows)):
            row = rows[index]
            task.check_row(row, f"Hub dataset {fetched.dataset}, split {hub_split}, row {index}")
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    described = FetchedFile(hub_split=hub_split, num_rows=len(rows), sha256=_sha256(part))
    fetched = replace(fetched, files={**fetched.files, split: described})
    listing = folder / f"{SOURCE_NAME}.part"
    listing.write_text(json.dumps(asdict(fetched), indent=2) + "\n", encoding="utf-8")
    listing.replace(folder / SOURCE_NAME)
    part.replace(_path(folder, split))
    return fetched


def _path(folder: Path, split: str) -> Path:
    return folder / f"{split}.jsonl"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
