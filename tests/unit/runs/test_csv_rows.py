"""Rows that are appended are the rows that are read, and what is no such row is named."""

from dataclasses import dataclass

import pytest

from foretune.errors import UsageError
from foretune.runs.csv_rows import append_rows, check_columns, read_rows


@dataclass(frozen=True)
class Row:
    name: str
    count: int
    share: float
    rank: int | str
    loss: float | str


ROWS = [Row("a, b", 3, 0.1234567890123, "", 2.5), Row("", -1, float("inf"), 8, "")]


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "table.csv"
    for row in ROWS:
        append_rows(path, [row])
    assert read_rows(path, Row) == ROWS
    assert path.read_bytes().splitlines()[0] == b"name,count,share,rank,loss"
    assert path.read_bytes().count(b"\n") == 3


def test_digits_are_significant_ones(tmp_path):
    append_rows(tmp_path / "t.csv", ROWS[:1], digits=3)
    assert read_rows(tmp_path / "t.csv", Row)[0].share == 0.123


def test_a_missing_file_has_no_rows_and_no_rows_make_no_file(tmp_path):
    assert read_rows(tmp_path / "t.csv", Row) == []
    append_rows(tmp_path / "t.csv", [])
    assert not (tmp_path / "t.csv").exists()


def test_a_file_of_other_columns_is_left_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("date,speed\n")
    for use in (lambda: append_rows(path, ROWS), lambda: read_rows(path, Row), lambda: check_columns(path, Row)):
        with pytest.raises(UsageError, match="has columns date, speed; expected name, count"):
            use()
    assert path.read_text() == "date,speed\n"


@pytest.mark.parametrize("line", ["a,three,0.1,,", "a,3", "a,3,0.1,,,,"])
def test_a_line_that_is_no_row_is_named(line, tmp_path):
    path = tmp_path / "t.csv"
    append_rows(path, ROWS)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match=r"t.csv, line 4: not a row"):
        read_rows(path, Row)
