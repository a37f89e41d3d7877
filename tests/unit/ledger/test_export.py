"""Tables read back."""

from __future__ import annotations

import csv
import json
import math

import pytest

from foretune.errors import UsageError
from foretune.ledger import Point
from foretune.ledger.export import point_table, run_table, write_table


@pytest.fixture
def filled(ledger, make_run):
    """Ledger of two runs, one with figures."""
    runs = [make_run(accuracy=0.9), make_run("lozo", metrics={"final.loss": math.nan}, trial=1)]
    for run in runs:
        ledger.add(run)
    ledger.add_points(runs[0].id, [Point(10, {"loss": 1.0}), Point(20, {"loss": 0.5, "eval_loss": 0.25})])
    return ledger


def test_csv(filled, tmp_path):
    write_table(run_table(filled.query()), tmp_path / "new" / "runs.csv")
    first, second = csv.DictReader((tmp_path / "new" / "runs.csv").read_text().splitlines())
    assert (first["method"], first["final.accuracy"], first["config.method.lr"]) == ("mezo", "0.9", "1e-06")
    assert (first["started"], first["final.loss"]) == ("2026-01-31T12:00:00+00:00", "")
    assert (second["final.loss"], second["trial"]) == ("nan", "1")


def test_json_has_no_nan(filled, tmp_path):
    path = tmp_path / "runs.json"
    write_table(run_table(filled.query(), ["name", "lr", "final.loss", "started"]), path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == [
        {"name": "mezo-0", "lr": 1e-6, "final.loss": None, "started": "2026-01-31T12:00:00+00:00"},
        {"name": "lozo-1", "lr": 1e-6, "final.loss": None, "started": "2026-01-31T12:01:00+00:00"},
    ]


def test_parquet_has_one_type_a_column(filled, tmp_path):
    import pyarrow.parquet

    path = tmp_path / "runs.parquet"
    write_table(run_table(filled.query()), path)
    table = pyarrow.parquet.read_table(path)
    types = {name: str(table.schema.field(name).type) for name in ("seed", "config.method.lr", "name", "trial")}
    assert types == {"seed": "int64", "config.method.lr": "double", "name": "string", "trial": "int64"}
    assert str(table.schema.field("started").type).startswith("timestamp")
    assert table["trial"].to_pylist() == [None, 1]
    assert table["final.accuracy"].to_pylist() == [0.9, None]


def test_parquet_takes_mixed_columns_as_text(tmp_path):
    import pyarrow.parquet

    table = [{"a": 1, "b": 1, "c": [1, 2]}, {"a": "x", "b": 0.5, "c": None}]
    write_table(table, tmp_path / "mixed.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "mixed.parquet")
    assert read.to_pydict() == {"a": ["1", "x"], "b": [1.0, 0.5], "c": ["[1, 2]", None]}


def test_points(filled):
    first, second = point_table(filled, filled.query())
    assert (first["name"], first["step"], first["loss"]) == ("mezo-0", 10, 1.0)
    assert second["eval_loss"] == 0.25


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"runs\.xlsx: give a name that ends in \.csv, \.json, \.parquet"):
        write_table([], tmp_path / "runs.xlsx")
