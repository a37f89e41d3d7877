"""SIGTERM, as a batch system sends it before it takes a machine away, loses no step that was made."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from bad_inputs.table import in_full
from foretune.cli.main import main
from foretune.journal import Journal

RUN = "train ... --steps 150 --eval-steps 50 --ledger none"


def test_a_run_that_is_terminated_goes_on(place):
    journal = Path("new", "journal")
    process = subprocess.Popen([sys.executable, "-m", "foretune.cli.main", *in_full(RUN)], stderr=subprocess.PIPE)
    while not journal.exists() or len(Journal.read(journal).steps) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (-signal.SIGTERM, b"")
    before = Journal.read(journal)
    assert main(in_full(f"{RUN} --resume")) == 0
    after = Journal.read(journal)
    assert after.records[: len(before.records)] == before.records
    assert len(after.steps) == 150
