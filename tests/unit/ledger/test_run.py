"""Liveness, keys and names of a run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from foretune.ledger import Run, new_id, now

HERE = {"host": socket.gethostname(), "pid": os.getpid()}


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("place", "age_seconds", "expected"),
    [
        (HERE, 0, "running"),
        (HERE, 600, "dead"),  # a process that got the number later
        ({"host": "elsewhere", "pid": 1}, 200, "running"),
        ({"host": "elsewhere", "pid": 1}, 400, "dead"),
    ],
)
def test_a_run_without_signs_of_life_is_dead(place, age_seconds, expected):
    run = Run(id="a", name="a", heartbeat=now() - timedelta(seconds=age_seconds), **place)
    assert run.state == expected
    assert replace(run, status="failed").state == "failed"


def test_a_run_whose_process_is_gone_is_dead_at_once():
    run = Run(id="a", name="a", heartbeat=now(), host=socket.gethostname(), pid=_dead_pid())
    assert (run.status, run.state) == ("running", "dead")


def test_the_config_hash_covers_what_a_run_computes_and_the_settings_hash_leaves_out_all_seeds():
    config = {"method": {"name": "mezo", "lr": 1e-6}, "seed": 0, "train_set_seed": 0, "output": "a", "device": "cpu"}
    run = Run(id="a", name="a", config=config)
    moved = replace(run, config=config | {"output": "b", "device": "cuda", "log_steps": 5})
    other_seed = replace(run, config=config | {"seed": 1})
    other_rows = replace(run, config=config | {"train_set_seed": 1})
    other_lr = replace(run, config=config | {"method": {"name": "mezo", "lr": 1e-7}})
    assert run.config_hash == moved.config_hash == other_seed.config_hash
    assert len({run.config_hash, other_rows.config_hash, other_lr.config_hash}) == 3
    assert run.settings_hash == other_seed.settings_hash == other_rows.settings_hash != other_lr.settings_hash


def test_values_have_dotted_names():
    config = {"method": {"name": "mezo", "betas": [0.9, 0.99]}, "tuning": {}}
    values = Run(id="a", name="a", status="finished", config=config, metrics={"final.accuracy": 0.5}).values()
    assert values["state"] == "finished"
    assert values["final.accuracy"] == 0.5
    assert values["config.method.betas"] == [0.9, 0.99]
    assert values["config.tuning"] == {}


def test_ids_are_unique():
    assert len({new_id() for _ in range(1000)}) == 1000
