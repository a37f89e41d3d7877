"""One process at a time is at a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from foretune.errors import UsageError
from foretune.liveness import machine, process_start
from foretune.runs.holding import HOLDER_NAME, check_free, holding


def held_by(folder, pid, **changes):
    holder = {"machine": machine(), "pid": pid, "start": process_start(pid), **changes}
    (folder / HOLDER_NAME).write_text(json.dumps(holder))


def test_a_run_is_held_until_the_block_ends_however(tmp_path):
    with pytest.raises(KeyboardInterrupt), holding(tmp_path):
        assert json.loads((tmp_path / HOLDER_NAME).read_text())["pid"] == os.getpid()
        check_free(tmp_path)  # it is this process that has it
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_another_process_that_is_there_is_named_until_it_ends(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    held_by(tmp_path, other.pid)
    with pytest.raises(UsageError, match=f"^--output {tmp_path}: process {other.pid} is at this run"):
        check_free(tmp_path)
    other.communicate(b"\n")
    with holding(tmp_path):
        pass


@pytest.mark.parametrize("changes", [{"machine": "another"}, {"start": "1"}, {"start": None}])
def test_what_cannot_be_seen_or_was_killed_holds_nothing(tmp_path, changes):
    held_by(tmp_path, os.getppid(), **changes)
    check_free(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_torn_file_holds_nothing(tmp_path, text):
    (tmp_path / HOLDER_NAME).write_text(text)
    check_free(tmp_path)
