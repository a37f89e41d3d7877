"""Lines of metrics.jsonl."""

from __future__ import annotations

import math

from foretune.ledger import Point
from foretune.ledger.metrics_file import numbers, read_points


def test_lines_become_points_and_a_torn_one_is_left_out():
    lines = ['{"step": 2, "loss": 0.5}\n', '{"step": 2, "diagnostics": {"all": {"norm": 3}}}\n', '{"step": 4, "lo']
    assert list(read_points(lines)) == [Point(2, {"loss": 0.5}), Point(2, {"diagnostics.all.norm": 3.0})]


def test_numbers_are_kept_and_nothing_is_nan():
    found = numbers({"a": 1, "b": {"c": None, "d": True}, "e": "text", "f": [1]})
    assert found.keys() == {"a", "b.c"}
    assert math.isnan(found["b.c"])
