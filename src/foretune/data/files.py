"""The rows of a local file, whose suffix says how it is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foretune.errors import UsageError, first_line_of

Located = tuple[str, Any]
"""Where a row stands, for messages, and the row."""


def check_format(path: Path, option: str) -> None:
    """Refuse a file of another format than those that can be read.

    Raises:
        UsageError: the message names the option, the file and the suffixes there are.
    """
    if path.suffix.lower() not in _READERS:
        found = f"suffix {path.suffix!r} is of a format that is not read" if path.suffix else "the name has no suffix"
        raise UsageError(f"{option} {path}: {found}; expected {', '.join(SUFFIXES)}.")


def read_rows(path: Path) -> Iterator[Located]:
    """Yield the rows of a file, each with its place.

    - ``.jsonl``: one JSON value a line, blank lines skipped.
    - ``.csv``: a header, then one row a record; every value is text, so that ``01`` and ``NA`` stay what they are.
    - ``.parquet``: rows are counted from 0, as data frames do.

    Raises:
        UsageError: the file is missing, is not text in UTF-8 or is broken; the message names file and line.
    """
    check_format(path, "File")
    try:
        yield from _READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{path}' is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _read_jsonl(path: Path) -> Iterator[Located]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"'{path}', line {number}"
            try:
                row = json.loads(line.rstrip("\r\n"))
            except json.JSONDecodeError as error:
                what = error.msg.removesuffix(" at")
                raise UsageError(f"{where}: not valid JSON ({what} at column {error.colno}).") from error
            yield where, row


def _read_csv(path: Path) -> Iterator[Located]:
    with path.open(encoding="utf-8-sig", newline="") as lines:  # spreadsheets put a byte order mark in front
        records = csv.reader(lines, strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for record in records:
                where, line = f"'{path}', line {line}", records.line_num + 1
                if not record:
                    continue
                if header is None:
                    header = record
                    if len(header) == 1 and (marks := [mark for mark in ";\t" if mark in header[0]]):
                        raise UsageError(
                            f"{where}: the header is one field, {header[0]!r:.60}: values are separated by commas, not "
                            f"by {marks[0]!r}."
                        )
                    if twice := [name for name in header if name and header.count(name) > 1]:
                        raise UsageError(f"{where}: field {twice[0]!r} is there twice; every field needs its own name.")
                elif len(record) != len(header):
                    raise UsageError(
                        f"{where}: it has {len(record)} values, and the header names {len(header)} fields. "
                        'A value with a comma or a newline stands in "double quotes".'
                    )
                else:
                    yield where, dict(zip(header, record, strict=True))
        except csv.Error as error:
            raise UsageError(f"'{path}', line {line}: not valid CSV ({error}).") from error


def _read_parquet(path: Path) -> Iterator[Located]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield f"'{path}', row {number}", row
                    number += 1
    except pyarrow.ArrowException as error:
        raise UsageError(f"'{path}' is not a Parquet file that can be read: {first_line_of(error)}") from error


_READERS: dict[str, Callable[[Path], Iterator[Located]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
"""The formats that can be read."""
