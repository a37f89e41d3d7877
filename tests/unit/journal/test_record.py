"""The format: golden bytes, an independent decoder, exact round trips, and what has no place in it."""

import binascii
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretune.errors import UsageError
from foretune.journal import FORMAT_VERSION, EvaluationRecord, Record, RollbackRecord, StepRecord
from foretune.journal.reader import parse_journal
from foretune.journal.record import decode_observed_step, decode_rollback, encode_preamble_and_header, encode_record

STEP = StepRecord(step=7, scalars=(-0.125,), loss=0.6875, lr=1e-6, zo_eps=1e-3, accepted=True)
OBSERVED = StepRecord(9, (1.0, -2.0), 0.5, 1e-6, 1e-3, True, observation=b"\x00\xff rows")
EVALUATION = EvaluationRecord(step=8, metrics={"accuracy": 0.75, "loss": math.inf})

# A change of these bytes is a new format version.
GOLDEN = bytes.fromhex(
    "8946544a0d0a1a0a01000c00000095183d427b226c72223a31652d30367d20957c900125000000a181ae6c07000000010000"
    "00000000e63f8dedb5a0f7c6b03efca9f1d24d62503f000000000000c0bf72ecee79023300000032f37c5e7b227374657022"
    "3a382c226d657472696373223a7b226163637572616379223a302e37352c226c6f7373223a22696e66227d7d5330bb18"
)

floats = st.floats(allow_nan=True, allow_infinity=True)
steps = st.integers(0, 2**32 - 1)
records = st.one_of(
    st.builds(
        StepRecord,
        step=steps,
        scalars=st.lists(floats, max_size=20).map(tuple),
        loss=floats,
        lr=floats,
        zo_eps=floats,
        accepted=st.booleans(),
        observation=st.binary(max_size=20),
    ),
    st.builds(EvaluationRecord, step=steps, metrics=st.dictionaries(st.text(max_size=10), floats, max_size=5)),
    st.builds(
        RollbackRecord,
        step=st.integers(0, 100),
        detected_at=st.integers(101, 2**32),
        cause=st.text(max_size=10),
        lr_factor=st.floats(0, 1),
    ),
)


def encode(header_json: bytes, content: list[Record]) -> bytes:
    data = encode_preamble_and_header(header_json)
    chain = struct.unpack("<I", data[-4:])[0]
    for record in content:
        encoded, chain = encode_record(record, chain)
        data += encoded
    return data


def bits(record: Record) -> tuple:
    """Everything in a record, with floats as bit patterns (nan equals itself, 0.0 is not -0.0)."""
    if isinstance(record, StepRecord):
        values = (record.loss, record.lr, record.zo_eps, *record.scalars)
        return (record.step, record.accepted, record.observation, struct.pack(f"<{len(values)}d", *values))
    if isinstance(record, RollbackRecord):
        return (record.step, record.detected_at, record.cause, struct.pack("<d", record.lr_factor))
    # A metric's nan is written as a word, which keeps neither its sign nor its payload.
    return (record.step, [(name, repr(value)) for name, value in record.metrics.items()])


def test_golden_bytes() -> None:
    assert encode(b'{"lr":1e-06}', [STEP, EVALUATION]) == GOLDEN
    journal = parse_journal(Path("golden"), GOLDEN)
    assert journal.header == {"lr": 1e-6}
    assert journal.records == [STEP, EVALUATION]


def test_layout_by_an_independent_decoder() -> None:
    data = encode(b'{"a":1}', [STEP, EVALUATION])
    magic, version, length, check = struct.unpack_from("<8sHII", data)
    assert (magic, version, length) == (b"\x89FTJ\r\n\x1a\n", FORMAT_VERSION, 7)
    assert check == binascii.crc32(data[:14])
    assert json.loads(data[18:25]) == {"a": 1}
    # The chained checks are one CRC over preamble, header and the records without their checks.
    run = data[:14] + data[18:25]
    assert struct.unpack_from("<I", data, 25)[0] == binascii.crc32(run)
    position = 29
    for kind in (1, 2):
        assert data[position] == kind
        (length,) = struct.unpack_from("<I", data, position + 1)
        assert struct.unpack_from("<I", data, position + 5)[0] == binascii.crc32(data[position : position + 5])
        stop = position + 9 + length
        run += data[position : position + 5] + data[position + 9 : stop]
        assert struct.unpack_from("<I", data, stop)[0] == binascii.crc32(run)
        position = stop + 4
    assert position == len(data)


@pytest.mark.parametrize("num_scalars", [0, 1, 2, 16])
def test_a_step_takes_42_bytes_and_8_a_scalar(num_scalars: int) -> None:
    encoded, _ = encode_record(StepRecord(0, (1.0,) * num_scalars, 0.5, 1e-6, 1e-3, True), chain=0)
    assert len(encoded) == 42 + 8 * num_scalars


def test_an_observation_follows_the_scalars_of_its_step() -> None:
    """Its bytes are the format's, too; nothing observed is a step as ever."""
    encoded, _ = encode_record(OBSERVED, chain=0)
    payload = struct.pack("<I", 2) + struct.pack("<I?5d", 9, True, 0.5, 1e-6, 1e-3, 1.0, -2.0) + b"\x00\xff rows"
    assert encoded[:5] == struct.pack("<BI", 3, len(payload))
    assert encoded[9:-4] == payload
    journal = parse_journal(Path("journal"), encode(b"{}", [STEP, OBSERVED, STEP]))
    assert journal.records == journal.steps == [STEP, OBSERVED, STEP]
    assert len(encode_record(replace(OBSERVED, observation=b""), chain=0)[0]) == 42 + 2 * 8


@pytest.mark.parametrize(
    "payload", [b"", b"\x02\x00", struct.pack("<I", 1) + bytes(29 + 8), struct.pack("<I", 2**32 - 1)]
)
def test_an_observed_step_that_is_too_short_is_malformed(payload: bytes) -> None:
    """Also where it ends with its scalars, and where it says it has more of them than there are bytes."""
    with pytest.raises(ValueError, match=rf"its payload has {len(payload)} bytes, expected more than \d+ for \d+ scal"):
        decode_observed_step(payload)


def test_a_rollback_is_json_between_other_records() -> None:
    back = RollbackRecord(step=7, detected_at=60, cause="exploding_loss", lr_factor=0.1)
    encoded, _ = encode_record(back, chain=0)
    assert encoded[0] == 4
    content = {"step": 7, "detected_at": 60, "cause": "exploding_loss", "lr_factor": 0.1}
    assert json.loads(encoded[9:-4]) == content
    journal = parse_journal(Path("journal"), encode(b"{}", [EVALUATION, back, back, STEP]))
    assert (journal.records, journal.rollbacks, journal.steps) == ([EVALUATION, back, back, STEP], [back, back], [STEP])
    for payload in (b"[1]", b"{}", b'{"step": 7}', b"no JSON"):
        with pytest.raises(ValueError):
            decode_rollback(payload)


def test_a_population_larger_than_a_16_bit_length_fits() -> None:
    record = StepRecord(0, tuple(float(i) for i in range(20_000)), 0.5, 1e-6, 1e-3, True)
    assert parse_journal(Path("journal"), encode(b"{}", [record])).records == [record]


@given(st.lists(records, max_size=6))
def test_records_read_back_bit_for_bit(content: list[Record]) -> None:
    journal = parse_journal(Path("journal"), encode(b"{}", content))
    assert [bits(record) for record in journal.records] == [bits(record) for record in content]
    assert journal.torn_bytes == 0


def test_metrics_that_are_not_finite_are_words_in_strict_json() -> None:
    metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}
    encoded, _ = encode_record(EvaluationRecord(3, metrics), chain=0)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(encoded[9:-4], parse_constant=refuse)
    assert content == {"step": 3, "metrics": {"a": "nan", "b": "inf", "c": "-inf", "d": 0.5}}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (StepRecord(-1, (1.0,), 0.5, 1e-6, 1e-3, True), r"step=-1.*integer from 0 to 4294967295"),
        (StepRecord(2**32, (1.0,), 0.5, 1e-6, 1e-3, True), r"step=4294967296.*integer from 0 to 4294967295"),
        (StepRecord(0, ("x",), 0.5, 1e-6, 1e-3, True), "scalars=.*float64 numbers"),
        (StepRecord(4, (1.0,), 0.5, 1e-6, 1e-3, True, "rows"), "observation of step 4 is 'rows', expected bytes"),
        (EvaluationRecord(-1, {}), "its step is -1"),
        (RollbackRecord(-1, 3, "", 0.1), "its step is -1"),
        (RollbackRecord(3, 3, "", 0.1), "a run goes back by at least a step, with a finite factor"),
        (RollbackRecord(2, 3, "", math.nan), "a run goes back by at least a step, with a finite factor"),
        (EvaluationRecord(0, {"accuracy": None}), "Metric 'accuracy' is None, expected a number"),
        (EvaluationRecord(0, {1: 0.5}), "Metric names are strings; 1 is int"),
    ],
)
def test_a_value_without_a_place_is_named(record: Record, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_record(record, chain=0)
