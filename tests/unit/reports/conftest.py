"""Runs to report on, all of them made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from foretune.ledger import Ledger, Run, new_id
from foretune.reports.report import build
from foretune.reports.sources import read_logs
from reported import make_ledger


@pytest.fixture(scope="session")
def reported_ledger(tmp_path_factory):
    """A ledger of many runs."""
    return make_ledger(tmp_path_factory.mktemp("reported") / "runs.sqlite")


@pytest.fixture(scope="session")
def report(reported_ledger):
    """The report of that ledger."""
    return build(read_logs([str(reported_ledger)]))


@pytest.fixture
def make_run():
    """Function that makes one finished run; `lr` and `zo_eps` are the method's, `dev` and `test` accuracies."""

    def make(method="mezo", *, lr=1e-6, zo_eps=1e-3, dev=0.5, test=0.5, seed=0, config=None, **fields):
        run = Run(
            id=new_id(),
            name="run",
            status="finished",
            method=method,
            task="sst2",
            tuning="full",
            model="facebook/opt-13b",
            seed=seed,
            train_set_seed=0,
            config={"method": {"name": method, "lr": lr, "zo_eps": zo_eps}, "seed": seed, **(config or {})},
            metrics={"dev.loss": 1 - dev, "dev.accuracy": dev, "final.accuracy": test, "zero_shot.accuracy": 0.4},
            started=datetime(2026, 1, 31, tzinfo=UTC),
            forward_passes=200,
        )
        return replace(run, **fields)

    return make


@pytest.fixture
def read_back(tmp_path):
    """Function that puts runs, and figures of each by step, into a ledger and reads that as a report does."""

    def read(runs, points=()):
        with Ledger.open(tmp_path / "some.sqlite", create=True) as ledger:
            for run in runs:
                ledger.add(run)
            for run, of_run in zip(runs, points, strict=False):
                ledger.add_points(run.id, of_run)
        return read_logs([str(tmp_path / "some.sqlite")])

    return read
