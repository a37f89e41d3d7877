import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from foretune.runs import memory_case
from foretune.runs.memory_bench import predicted_bytes
from foretune.runs.memory_case import OUT_OF_MEMORY, Case, Measured, measure

CASE = Case(
    model="mini",
    method="zo_adam",
    tuning="full",
    batch_size=2,
    sequence_length=16,
    objective="lm",
    dtype="float32",
    engine="layerwise",
    device="cpu",
    steps=1,
)


def test_a_case_is_measured_in_a_process_of_its_own_close_to_its_prediction():
    if not memory_case._CLEAR.exists():
        pytest.skip("the peak of resident memory can only be reset on Linux")
    found = measure(CASE)
    assert found.failure == ""
    assert found.seconds_per_step > 0
    assert found.process_bytes > 50 << 20
    assert found.peak_bytes == pytest.approx(predicted_bytes(CASE), rel=0.05)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (RuntimeError("another"), None),
    ],
)
def test_memory_that_runs_out_is_a_finding_and_other_errors_are_errors(error, failure, monkeypatch, capsys):
    def run_case(case):
        raise error

    monkeypatch.setattr(memory_case, "run_case", run_case)
    monkeypatch.setattr(sys, "argv", ["memory_case", json.dumps(asdict(CASE))])
    if failure is None:
        with pytest.raises(RuntimeError, match="another"):
            memory_case.main()
    else:
        memory_case.main()
        assert Measured(**json.loads(capsys.readouterr().out)) == Measured(failure=failure)


@pytest.mark.parametrize(
    ("status", "errors", "failure"),
    [(-9, "", OUT_OF_MEMORY), (-11, "", "killed by signal 11"), (1, "Traceback\nValueError: no", "ValueError: no")],
)
def test_a_process_that_fails_is_a_finding(status, errors, failure, monkeypatch):
    ended = subprocess.CompletedProcess([], status, stdout="", stderr=errors)
    monkeypatch.setattr(memory_case.subprocess, "run", lambda *words, **options: ended)
    assert measure(CASE) == Measured(failure=failure)
