"""Where the rows of a user's own task are: files, or a hub dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from foretune.data.files import SUFFIXES, check_format
from foretune.data.own.spec import OwnTask
from foretune.errors import UsageError
from foretune.tasks.base import HubSource

TRAIN, EVAL = "train", "test"
"""Our names of the two splits."""

_FORMATS_OF_OTHERS = {".arrow", ".feather", ".gz", ".json", ".tsv", ".txt", ".xls", ".xlsx", ".zip"}
"""Suffixes that mean a file although no such file can be read; a hub id may have dots, too."""


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """The rows of a task.

    Args:
        name: What to call the task where its file does not.
        files: Files of the splits that are in files.
        sources: The hub dataset of the others.
        has_eval: Whether there are test rows apart from the training rows.
    """

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[HubSource, ...] = ()
    has_eval: bool


def find_rows(spec: OwnTask) -> OwnRows:
    """Say where the rows are; files must exist, of the hub nothing is asked.

    Raises:
        UsageError: a file is missing or of another format, or a setting makes no sense with a file.
    """
    option = spec.option("data")
    train = _as_file(spec, spec.data, option)
    if train is not None:
        if spec.data_config is not None:
            raise UsageError(f"{spec.option('data_config')} would have no effect: {option} is a file. Leave it out.")
        files = {TRAIN: str(train)}
        if spec.eval_data is not None:
            files[EVAL] = str(_must_be_file(spec, train))
        return OwnRows(name=train.stem, files=files, has_eval=spec.eval_data is not None)
    if _in_folder_of(spec, spec.data).is_dir():
        raise UsageError(f"{option} {spec.data} is a folder; give a file of rows in it.")
    dataset, _, revision = spec.data.partition("@")
    evaluation = None if spec.eval_data is None else _as_file(spec, spec.eval_data, spec.option("eval_data"))
    in_hub = {EVAL: spec.eval_data} if spec.eval_data is not None and evaluation is None else {}
    return OwnRows(
        name=dataset,
        files={EVAL: str(evaluation)} if evaluation is not None else {},
        sources=(HubSource(dataset, spec.data_config, revision or None, splits=in_hub),),
        has_eval=spec.eval_data is not None,
    )


def _must_be_file(spec: OwnTask, train: Path) -> Path:
    option = spec.option("eval_data")
    path = _in_folder_of(spec, spec.eval_data or "")
    _check_file(path, option)
    if path.resolve() == train.resolve():
        raise UsageError(f"{option} {path} is the training file; leave it out to cut test rows from that file.")
    return path


def _as_file(spec: OwnTask, name: str, option: str) -> Path | None:
    """Return the path that `name` is, or None where it can only be something on the hub."""
    path = _in_folder_of(spec, name)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.is_file()
    if not looks_local and path.suffix.lower() not in _FORMATS_OF_OTHERS.union(SUFFIXES):
        return None
    _check_file(path, option)
    return path


def _check_file(path: Path, option: str) -> None:
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder; give a file of rows in it.")
    if not path.is_file():
        raise UsageError(f"{option} {path}: there is no such file.")
    check_format(path, option)


def _in_folder_of(spec: OwnTask, name: str) -> Path:
    """Return a path; in a task file it starts at the file's folder."""
    return Path(name) if spec.file is None else spec.file.parent / name
