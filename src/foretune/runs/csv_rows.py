"""Tables of measurements: a dataclass a row, a column a field, appended and never rewritten."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from foretune.errors import UsageError

Row = TypeVar("Row")


def check_columns(path: Path, kind: type) -> None:
    """Refuse a file that rows of this kind cannot be appended to; one that does not exist will be begun.

    Raises:
        UsageError: naming the file, and how its columns differ.
    """
    if not path.exists():
        return
    with path.open(newline="") as file:
        found = next(csv.reader(file), [])
    expected = [field.name for field in fields(kind)]
    if found != expected:
        raise UsageError(f"{path} has columns {', '.join(found)}; expected {', '.join(expected)}.")


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Return the rows of a file, none if it does not exist; an empty cell stays empty text where a field may be text.

    Args:
        path: The file.
        kind: A dataclass whose fields are texts, whole numbers, numbers, or numbers or texts.
    Raises:
        UsageError: the file has other columns, or a line has a cell of another type or lacks one; it is named.
    """
    check_columns(path, kind)
    if not path.exists():
        return []
    types = get_type_hints(kind)
    rows = []
    with path.open(newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                rows.append(kind(**{name: _value(types[name], cell) for name, cell in line.items()}))
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"{path}, line {number}: not a row of this table: {error}.") from None
    return rows


def append_rows(path: Path, rows: Iterable[Any], *, digits: int | None = None) -> None:
    """Write rows of one kind at the end of a file, which is begun, with its folder, if it does not exist.

    Args:
        path: The file.
        rows: Instances of one dataclass.
        digits: Significant digits of numbers; None keeps all.
    Raises:
        UsageError: the file has other columns.
    """
    rows = list(rows)
    if not rows:
        return
    check_columns(path, type(rows[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value, digits) for name, value in asdict(row).items()})


def _cell(value: object, digits: int | None) -> object:
    return f"{value:.{digits}g}" if isinstance(value, float) and digits is not None else value


def _value(hint: Any, cell: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if kinds == (str,) or (cell == "" and str in kinds):
        return cell
    return int(cell) if int in kinds else float(cell)
