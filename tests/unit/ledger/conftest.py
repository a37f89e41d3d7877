"""Runs to keep in a ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from foretune.ledger import Ledger, Run, new_id


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger.open(path, create=True) as opened:
        yield opened


@pytest.fixture
def make_run():
    """Function that makes a finished run of a method: each a minute younger than the one before."""
    start = datetime(2026, 1, 31, 12, tzinfo=UTC)
    made = []

    def make(method="mezo", *, lr=1e-6, accuracy=0.5, seed=0, **fields):
        config = {"method": {"name": method, "lr": lr, "zo_eps": 1e-3}, "steps": 100, "seed": seed, "train_set_seed": 0}
        run = Run(
            id=new_id(),
            **{
                "name": f"{method}-{len(made)}",
                "status": "finished",
                "method": method,
                "task": "sst2",
                "seed": seed,
                "train_set_seed": 0,
                "config": config,
                "metrics": {"final.accuracy": accuracy},
                "started": start + timedelta(minutes=len(made)),
                "steps": 100,
                **fields,
            },
        )
        made.append(run)
        return run

    return make
