from __future__ import annotations

import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from foretune.data.files import read_rows
from foretune.errors import UsageError

ROWS = [{"text": "one, two", "label": 0}, {"text": 'the "best"\nof lines', "label": 1}]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_three_formats_give_the_same_rows_with_their_places(tmp_path):
    jsonl = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n")
    csv = write(tmp_path / "a.csv", '\ufefftext,label\n"one, two",0\n\n"the ""best""\nof lines",1\n')
    parquet = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), parquet)
    assert list(read_rows(jsonl)) == [(f"'{jsonl}', line 1", ROWS[0]), (f"'{jsonl}', line 2", ROWS[1])]
    as_text = [row | {"label": str(row["label"])} for row in ROWS]
    assert list(read_rows(csv)) == [(f"'{csv}', line 2", as_text[0]), (f"'{csv}', line 4", as_text[1])]
    assert list(read_rows(parquet)) == [(f"'{parquet}', row 0", ROWS[0]), (f"'{parquet}', row 1", ROWS[1])]


def test_csv_values_stay_text(tmp_path):
    path = write(tmp_path / "a.csv", "text,code\nNA,01\n,true\n")
    assert [row for _, row in read_rows(path)] == [{"text": "NA", "code": "01"}, {"text": "", "code": "true"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2: not valid JSON (Expecting value at column 7)."),
        ("a.jsonl", b'{"a": "\xe9"}\n', "is not UTF-8 text (invalid continuation byte at byte 7); save it as UTF-8."),
        ("a.csv", b"a,b\n\xff,1\n", "is not UTF-8 text (invalid start byte at byte 4); save it as UTF-8."),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "line 3: it has 3 values, and the header names 2 fields."),
        ("a.csv", "a,b\n1\n", "line 2: it has 1 values, and the header names 2 fields."),
        ("a.csv", "a,a\n1,2\n", "line 1: field 'a' is there twice"),
        ("a.csv", 'a,b\n1,2\n1,"open\n\n', "line 3: not valid CSV (unexpected end of data)."),
        ("a.parquet", "text", "is not a Parquet file that can be read: "),
        ("a.parquet", "", "is not a Parquet file that can be read: "),
        ("a.txt", "x", "suffix '.txt' is of a format that is not read; expected .csv, .jsonl, .parquet."),
        ("a", "x", "the name has no suffix; expected .csv, .jsonl, .parquet."),
    ],
)
def test_a_broken_file_is_one_error_with_its_place(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.csv' cannot be read: No such file"):
        list(read_rows(tmp_path / "gone.csv"))
