from __future__ import annotations

import os
import subprocess
import sys
import threading

from foretune.liveness import beating, machine, process_start


def test_a_process_is_told_from_another_with_its_number():
    start = process_start(os.getpid())
    assert start == process_start(os.getpid())
    assert start != process_start(1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process_start(gone.pid) is None


def test_a_process_that_nobody_has_waited_for_is_gone():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(ended.pid) is None
    ended.wait()


def test_processes_of_one_machine_agree_on_it():
    command = [sys.executable, "-c", "from foretune.liveness import machine; print(machine())"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == machine()


def test_a_beat_is_repeated_until_it_declines():
    beats, declined = [], threading.Event()

    def beat():
        beats.append(threading.current_thread().name)
        if len(beats) == 3:
            declined.set()
        return len(beats) < 3

    with beating(beat, seconds=0.001, name="heart"):
        assert declined.wait(10)
    assert beats == ["heart"] * 3


def test_no_beat_comes_after_the_block():
    with beating(lambda: True, seconds=0.001, name="heart"):
        assert "heart" in [thread.name for thread in threading.enumerate()]
    assert "heart" not in [thread.name for thread in threading.enumerate()]
