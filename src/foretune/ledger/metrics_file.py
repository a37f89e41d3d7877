"""Lines of metrics.jsonl as points of the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from foretune.ledger.run import Point, flatten


def read_points(lines: Iterable[str]) -> Iterator[Point]:
    """Yield a point for each line; a torn one, which only the last can be, ends them."""
    for line in lines:
        if not line.endswith("\n"):
            return
        values = json.loads(line)
        yield Point(int(values.pop("step")), numbers(values))


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among nested values, by dotted names; None, which JSON has for nan, is nan."""
    return {
        name: math.nan if value is None else float(value)
        for name, value in flatten(values)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    }
