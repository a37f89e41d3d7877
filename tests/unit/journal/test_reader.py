"""Damage: every cut is a prefix or an error, every changed byte is an error, every message has its place."""

import os
import struct
import time
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.errors import JournalError
from foretune.journal import EvaluationRecord, Journal, Record, StepRecord
from foretune.journal.reader import parse_journal
from foretune.journal.record import CRC, MAGIC, encode_preamble_and_header, encode_record

PATH = Path("run/journal")
RECORDS: list[Record] = [
    StepRecord(0, (0.5,), 0.7, 1e-6, 1e-3, True),
    StepRecord(1, (0.25, -1.5), 0.6, 1e-6, 1e-3, True),
    EvaluationRecord(2, {"accuracy": 0.5}),
    StepRecord(2, (0.0,), float("inf"), 1e-6, 1e-3, False),
    StepRecord(3, (0.5,), 0.7, 1e-6, 1e-3, True, observation=b"\x07\x80"),
]


def encode(records: list[Record], header: bytes = b'{"method":"mezo"}') -> tuple[bytes, list[int]]:
    """Return a journal's bytes and its boundaries: the header's end, then each record's."""
    data = bytearray(encode_preamble_and_header(header))
    chain = CRC.unpack(data[-4:])[0]
    boundaries = [len(data)]
    for record in records:
        encoded, chain = encode_record(record, chain)
        data += encoded
        boundaries.append(len(data))
    return bytes(data), boundaries


DATA, BOUNDARIES = encode(RECORDS)

# A journal of random records: steps with 0 to 3 scalars, as plain numbers are enough for damage.
journals = st.lists(st.lists(st.floats(allow_nan=False), max_size=3), min_size=1, max_size=5).map(
    lambda scalars: [StepRecord(i, tuple(s), 0.5, 1e-6, 1e-3, True) for i, s in enumerate(scalars)]
)


def check_cut(records: list[Record], data: bytes, boundaries: list[int], size: int) -> None:
    if size < boundaries[0]:
        with pytest.raises(JournalError, match=r"file ends inside its header|the file is empty"):
            parse_journal(PATH, data[:size])
        return
    journal = parse_journal(PATH, data[:size])
    num_whole = sum(end <= size for end in boundaries[1:])
    assert journal.records == records[:num_whole]
    assert journal.offsets == boundaries[:num_whole]
    assert journal.valid_end == boundaries[num_whole]
    assert journal.torn_bytes == size - journal.valid_end


def test_every_cut_reads_as_a_prefix() -> None:
    for size in range(len(DATA) + 1):
        check_cut(RECORDS, DATA, BOUNDARIES, size)


@given(journals, st.data())
def test_any_cut_of_any_journal_reads_as_a_prefix(records: list[Record], draw: st.DataObject) -> None:
    data, boundaries = encode(records)
    check_cut(records, data, boundaries, draw.draw(st.integers(0, len(data))))


def test_every_changed_byte_of_a_whole_file_is_found() -> None:
    # The last record too: its length has its own check, so it cannot be made to look torn. A CRC finds any
    # error within 32 consecutive bits, so this is certain, not likely: here every bit of every byte.
    for position in range(len(DATA)):
        for change in (*(1 << bit for bit in range(8)), 0xFF):
            damaged = bytearray(DATA)
            damaged[position] ^= change
            with pytest.raises(JournalError):
                parse_journal(PATH, bytes(damaged))


@given(journals, st.data())
def test_any_changed_byte_of_any_journal_is_found(records: list[Record], draw: st.DataObject) -> None:
    data, _ = encode(records)
    damaged = bytearray(data)
    damaged[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(JournalError):
        parse_journal(PATH, bytes(damaged))


def test_in_a_torn_file_a_change_before_the_torn_record_and_in_its_prefix_is_found() -> None:
    # What is left of the payload of a torn record has nothing to be compared with, and is thrown away anyway.
    torn = DATA[:-5]
    for position in range(BOUNDARIES[-2] + 9):
        damaged = bytearray(torn)
        damaged[position] ^= 0x40
        with pytest.raises(JournalError):
            parse_journal(PATH, bytes(damaged))


def test_a_damaged_length_does_not_pass_for_a_torn_tail() -> None:
    damaged = bytearray(DATA)
    struct.pack_into("<I", damaged, BOUNDARIES[1] + 1, 2**31)  # the second of four records
    with pytest.raises(JournalError, match=f"byte {BOUNDARIES[1]}: the kind and length does not match"):
        parse_journal(PATH, bytes(damaged))


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_a_dropped_record_is_found(dropped: int) -> None:
    data = DATA[: BOUNDARIES[dropped]] + DATA[BOUNDARIES[dropped + 1] :]
    with pytest.raises(JournalError, match=rf"byte {BOUNDARIES[dropped]}: the record .* dropped or moved"):
        parse_journal(PATH, data)


def test_a_repeated_record_is_found() -> None:
    first = DATA[BOUNDARIES[0] : BOUNDARIES[1]]
    data = DATA[: BOUNDARIES[1]] + first + DATA[BOUNDARIES[1] :]
    with pytest.raises(JournalError, match=f"byte {BOUNDARIES[1]}: the record does not match"):
        parse_journal(PATH, data)


def test_two_exchanged_records_are_found() -> None:
    start, middle, end = BOUNDARIES[1:4]
    data = DATA[:start] + DATA[middle:end] + DATA[start:middle] + DATA[end:]
    with pytest.raises(JournalError, match=f"byte {start}: the record does not match"):
        parse_journal(PATH, data)


def test_a_record_under_another_header_is_found() -> None:
    other, _ = encode([], b'{"method":"lozo"}')
    with pytest.raises(JournalError, match=f"byte {BOUNDARIES[0]}: the record does not match"):
        parse_journal(PATH, other + DATA[BOUNDARIES[0] :])


def test_damage_names_file_offset_and_what_is_whole() -> None:
    damaged = bytearray(DATA)
    damaged[BOUNDARIES[2] + 12] ^= 1
    with pytest.raises(JournalError) as caught:
        parse_journal(PATH, bytes(damaged))
    message = str(caught.value)
    assert message.startswith(f"{PATH}, byte {BOUNDARIES[2]}: ")
    assert "expected 0x" in message
    assert "The 2 records before it are whole." in message


def test_a_tail_of_zeros_is_named() -> None:
    with pytest.raises(JournalError, match=f"byte {len(DATA)}: .* only zeros from here on"):
        parse_journal(PATH, DATA + bytes(100))


def raw_record(kind: int, payload: bytes) -> bytes:
    """A record of any content whose checks are right, behind the header of `DATA`."""
    prefix = struct.pack("<BI", kind, len(payload))
    chain = CRC.unpack_from(DATA, BOUNDARIES[0] - 4)[0]
    return prefix + CRC.pack(crc32(prefix)) + payload + CRC.pack(crc32(prefix + payload, chain))


@pytest.mark.parametrize("cut", [0, 5])  # whole, and torn: cutting it off would lose what we cannot judge
def test_an_unknown_kind_was_written_by_a_newer_version(cut: int) -> None:
    record = raw_record(9, b"something else")
    data = DATA[: BOUNDARIES[0]] + record[: len(record) - cut]
    with pytest.raises(JournalError, match=f"byte {BOUNDARIES[0]}: record of kind 9, .* newer version"):
        parse_journal(PATH, data)


def test_a_newer_format_version_is_named() -> None:
    preamble = struct.pack("<8sHI", MAGIC, 2, 10)
    with pytest.raises(JournalError, match=r"byte 8: format version 2, expected 1; .* newer version"):
        parse_journal(PATH, preamble + CRC.pack(crc32(preamble)) + b"of another layout")


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(1, bytes(20)), (1, bytes(30)), (2, b"[1]"), (2, b"{"), (2, b'{"step":1,"metrics":{"a":"high"}}')],
)
def test_a_malformed_payload_with_right_checks_is_named(kind: int, payload: bytes) -> None:
    data = DATA[: BOUNDARIES[0]] + raw_record(kind, payload)
    with pytest.raises(JournalError, match=f"byte {BOUNDARIES[0]}: record of kind {kind} is malformed"):
        parse_journal(PATH, data)


@pytest.mark.parametrize("header", [b"not json", b"[1]"])
def test_a_malformed_header_with_right_checks_is_named(header: bytes) -> None:
    with pytest.raises(JournalError, match="byte 18: the header is"):
        parse_journal(PATH, encode_preamble_and_header(header))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "byte 0: the file is empty"),
        (b'{"step": 1, "loss": 0.5}\n', "byte 0: not a foretune journal"),
        (MAGIC.replace(b"\r\n", b"\n") + bytes(30), "byte 0: not a foretune journal"),  # sent in text mode
        (MAGIC, "byte 8: the file ends inside its header, expected at least 18 bytes"),
    ],
)
def test_a_file_that_is_no_journal(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=f"journal, {message}"):
        Journal.read(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nowhere: no such file"):
        Journal.read(tmp_path / "nowhere")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=r"is a directory; expected the journal file in it"):
        Journal.read(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(DATA)
    path.chmod(0)
    with pytest.raises(JournalError, match="cannot be opened: Permission denied"):
        Journal.read(path)


def test_an_unreadable_file_as_the_system_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    with pytest.raises(JournalError, match="journal: the journal cannot be opened: Permission denied"):
        Journal.read(tmp_path / "journal")


def test_steps_and_evaluations_are_the_records_by_kind(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(DATA)
    journal = Journal.read(path)
    assert journal.header == {"method": "mezo"}
    assert journal.steps == [RECORDS[0], RECORDS[1], RECORDS[3], RECORDS[4]]
    assert journal.evaluations == [RECORDS[2]]
    assert (journal.valid_end, journal.torn_bytes) == (len(DATA), 0)


def test_reading_100_000_steps_takes_less_than_2_seconds() -> None:
    data, _ = encode([StepRecord(i, (0.5,), 0.7, 1e-6, 1e-3, True) for i in range(100_000)])
    durations = []
    for _ in range(3):  # the best of three: other processes share the machine
        start = time.perf_counter()
        assert len(parse_journal(PATH, data).records) == 100_000
        durations.append(time.perf_counter() - start)
    assert min(durations) < 2.0
