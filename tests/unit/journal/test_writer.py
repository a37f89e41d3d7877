"""Writing: what a killed process leaves, reopening, truncating, and failures that leave the file whole."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foretune.errors import JournalError, UsageError
from foretune.journal import EvaluationRecord, Journal, JournalWriter, RollbackRecord, StepRecord

HEADER = {"method": {"name": "mezo", "lr": 1e-6}, "shapes": [[2, 3]]}


def step(index: int) -> StepRecord:
    return StepRecord(index, (index / 3,), 0.5 + index, 1e-6, 1e-3, True)


def evaluation(num_steps: int) -> EvaluationRecord:
    return EvaluationRecord(num_steps, {"accuracy": num_steps / 7})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def write(path: Path, num_steps: int) -> bytes:
    with JournalWriter.create(path, HEADER) as writer:
        for index in range(num_steps):
            writer.append(step(index))
    return path.read_bytes()


def test_what_is_appended_is_read_back_while_the_writer_is_open(path: Path) -> None:
    with JournalWriter.create(path, HEADER) as writer:
        assert Journal.read(path).records == []
        for index in range(5):
            writer.append(step(index))
            assert Journal.read(path).records[-1] == step(index)  # nothing waits in a buffer
        writer.append(evaluation(5))
        journal = Journal.read(path)
    assert journal.header == HEADER
    assert journal.records == [*(step(index) for index in range(5)), evaluation(5)]


def test_a_record_is_one_system_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with JournalWriter.create(path, HEADER) as writer:
        file, sizes = writer._file, []

        def count(data: bytes) -> int:
            sizes.append(len(data))
            return file.write(data)

        monkeypatch.setattr(writer, "_file", _Proxy(file, count))
        writer.append(step(0))
        writer.append(step(1))
        assert sizes == [50, 50]


def test_create_leaves_the_journal_and_nothing_else(path: Path) -> None:
    JournalWriter.create(path, HEADER).close()
    assert os.listdir(path.parent) == ["journal"]


def test_create_refuses_an_existing_file_and_leaves_it(path: Path) -> None:
    before = write(path, 2)
    with pytest.raises(JournalError, match=r"journal exists; .* Resume that run, or choose another folder"):
        JournalWriter.create(path, HEADER)
    assert path.read_bytes() == before


def test_create_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="the journal cannot be written: No such file or directory"):
        JournalWriter.create(tmp_path / "nowhere" / "journal", HEADER)


def test_a_refused_header_leaves_no_file(path: Path) -> None:
    with pytest.raises(UsageError, match="'method' is of type object"):
        JournalWriter.create(path, {"method": object()})
    assert os.listdir(path.parent) == []


def test_reopening_continues_as_if_never_closed(path: Path, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", 6)
    write(path, 3)
    with JournalWriter.reopen(path) as writer:
        for index in range(3, 6):
            writer.append(step(index))
    assert path.read_bytes() == whole


def test_a_torn_record_is_cut_off_and_written_again(path: Path) -> None:
    whole = write(path, 4)
    for num_bytes in range(1, 50):
        path.write_bytes(whole[:-num_bytes])
        with JournalWriter.reopen(path) as writer:
            assert path.read_bytes() == whole[:-50]
            writer.append(step(3))
        assert path.read_bytes() == whole


def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path) -> None:
    damaged = bytearray(write(path, 4))
    damaged[-60] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match=r"byte .* does not match its checksum"):
        JournalWriter.reopen(path)
    assert path.read_bytes() == damaged


def test_reopening_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such file"):
        JournalWriter.reopen(tmp_path / "journal")
    assert os.listdir(tmp_path) == []
    with pytest.raises(JournalError, match="is a directory"):
        JournalWriter.reopen(tmp_path)


def test_steps_increase(path: Path) -> None:
    with JournalWriter.create(path, HEADER) as writer:
        writer.append(step(0))
        writer.append(step(1))
        with pytest.raises(UsageError, match=r"Step 1 cannot follow step 1 .* drop_after\(1\) first"):
            writer.append(step(1))
        writer.append(step(2))
    with JournalWriter.reopen(path) as writer, pytest.raises(UsageError, match="Step 0 cannot follow step 2"):
        writer.append(step(0))
    assert [record.step for record in Journal.read(path).steps] == [0, 1, 2]


def test_a_record_that_does_not_fit_leaves_the_file_and_the_writer_whole(path: Path) -> None:
    with JournalWriter.create(path, HEADER) as writer:
        writer.append(step(0))
        with pytest.raises(UsageError):
            writer.append(StepRecord(2**40, (), 0.0, 0.0, 0.0, True))
        writer.append(step(1))
    assert Journal.read(path).records == [step(0), step(1)]


@pytest.mark.parametrize("drop", range(6))
def test_dropping_equals_a_run_that_stopped_there(path: Path, tmp_path: Path, drop: int) -> None:
    back = RollbackRecord(2, 5, "exploding_loss", 0.1)
    records = [step(0), step(1), evaluation(2), back, step(2), step(3), evaluation(4)]
    with JournalWriter.create(path, HEADER) as writer:
        for record in records:
            writer.append(record)
        writer.drop_after(drop)
        # The evaluation after two steps, and going back to there, belong to the state that step 2 starts from.
        kept = [r for r in records if (r.step < drop if isinstance(r, StepRecord) else r.step <= drop)]
        assert Journal.read(path).records == kept
        if drop < 4:
            writer.append(step(drop))
            kept.append(step(drop))
    with JournalWriter.create(tmp_path / "stopped", HEADER) as writer:
        for record in kept:
            writer.append(record)
    assert path.read_bytes() == (tmp_path / "stopped").read_bytes()


def test_going_back_is_one_change_of_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = RollbackRecord(1, 4, "exploding_loss", 0.1), RollbackRecord(1, 3, "exploding_loss", 0.1)
    before = write(path, 4)
    seen = []
    with JournalWriter.reopen(path) as writer:
        replace = Path.replace

        def watched(temporary: Path, target: Path) -> Path:
            seen.append((path.read_bytes(), temporary.read_bytes()))
            return replace(temporary, target)

        monkeypatch.setattr(Path, "replace", watched)
        writer.go_back(1, [first, second])
        assert seen == [(before, path.read_bytes())]
        writer.append(step(1))
        writer.drop_after(1)
        writer.append(step(1))
    assert Journal.read(path).records == [step(0), first, second, step(1)]
    assert os.listdir(path.parent) == ["journal"]


def test_going_back_fails_and_leaves_the_file_and_the_writer_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(path, 4)

    def full(temporary: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with JournalWriter.reopen(path) as writer:
        with monkeypatch.context() as patch, pytest.raises(JournalError, match="cannot be written: No space left"):
            patch.setattr(Path, "replace", full)
            writer.go_back(1, [RollbackRecord(1, 4, "exploding_loss", 0.1)])
        assert path.read_bytes() == before
        assert os.listdir(path.parent) == ["journal"]
        writer.append(step(4))


def test_a_closed_writer_says_so(path: Path) -> None:
    writer = JournalWriter.create(path, HEADER)
    writer.close()
    writer.close()
    for act in (lambda: writer.append(step(0)), writer.sync, lambda: writer.drop_after(0)):
        with pytest.raises(JournalError, match="the journal is closed; reopen it"):
            act()


def test_a_second_writer_is_found_before_anything_is_mixed(path: Path) -> None:
    with JournalWriter.create(path, HEADER) as first, JournalWriter.reopen(path) as second:
        first.append(step(0))
        with pytest.raises(JournalError, match=r"expected .* another process writes to it"):
            second.append(step(0))
        with pytest.raises(JournalError, match="another process writes to it"):
            second.drop_after(0)
        first.append(step(1))
    assert Journal.read(path).records == [step(0), step(1)]


class _Proxy:
    """A file whose write is another function."""

    def __init__(self, file, write) -> None:
        self._file = file
        self.write = write

    def __getattr__(self, name: str):
        return getattr(self._file, name)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(28, "No space left on device"), JournalError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_half_way_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, raised: type[BaseException]
) -> None:
    with JournalWriter.create(path, HEADER) as writer:
        writer.append(step(0))
        before = path.read_bytes()
        file = writer._file

        def write_half(data: bytes) -> int:
            if len(data) < 50:  # the second call, for the rest
                raise failure
            return file.write(data[:20])

        with monkeypatch.context() as patch:
            patch.setattr(writer, "_file", _Proxy(file, write_half))
            with pytest.raises(raised) as caught:
                writer.append(step(1))
        if raised is JournalError:
            assert "No space left on device. The records before it are whole" in str(caught.value)
        assert path.read_bytes() == before
        writer.append(step(1))
    assert Journal.read(path).records == [step(0), step(1)]


def test_a_short_write_is_completed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "whole", 2)
    with JournalWriter.create(path, HEADER) as writer:
        file = writer._file
        monkeypatch.setattr(writer, "_file", _Proxy(file, lambda data: file.write(data[:7])))
        writer.append(step(0))
        writer.append(step(1))
    assert path.read_bytes() == whole


APPEND_FOREVER = """
import os, sys
from foretune.journal import JournalWriter, StepRecord

for path in sys.argv[1:]:
    if os.fork() == 0:
        writer = JournalWriter.reopen(path)
        for index in range(10**9):
            writer.append(StepRecord(index, (index / 3,), 0.5 + index, 1e-6, 1e-3, True))
for path in sys.argv[1:]:
    os.wait()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_processes_leave_valid_prefixes(tmp_path: Path) -> None:
    paths = [tmp_path / f"journal-{index}" for index in range(8)]
    for path in paths:
        JournalWriter.create(path, HEADER).close()
    command = [sys.executable, "-c", APPEND_FOREVER, *map(str, paths)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        # What a reader sees meanwhile is a prefix too; all of it must still be there after the kill.
        seen = [Journal.read(path) for path in paths]
        while any(len(journal.records) < 10 for journal in seen) and parent.poll() is None:
            time.sleep(0.02)
            seen = [Journal.read(path) for path in paths]
        os.killpg(parent.pid, signal.SIGKILL)
        parent.stdout.read()  # ends when the last of the writers is gone
    for path, before in zip(paths, seen, strict=True):
        journal = Journal.read(path)
        assert len(journal.records) >= len(before.records) >= 10
        assert journal.records == [step(index) for index in range(len(journal.records))]
        assert journal.torn_bytes < 50
        with JournalWriter.reopen(path) as writer:
            writer.append(step(len(journal.records)))
        assert len(Journal.read(path).records) == len(journal.records) + 1


def test_appending_takes_at_most_20_microseconds(path: Path) -> None:
    best = float("inf")
    with JournalWriter.create(path, HEADER) as writer:
        for batch in range(10):  # the best of ten: other processes share the machine
            records = [step(200 * batch + index) for index in range(200)]
            start = time.perf_counter()
            for record in records:
                writer.append(record)
            best = min(best, (time.perf_counter() - start) / len(records))
    assert best <= 20e-6
