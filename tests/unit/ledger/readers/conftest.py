"""Logs that other programs have written."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def golden():
    return Path(__file__).parents[3] / "golden" / "logs"
