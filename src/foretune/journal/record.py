"""The journal's bytes: preamble, records and their checks, as pure functions of values.

A journal is a preamble, a header and any number of records, all integers and floats little-endian:

    preamble   magic 8 bytes, format version u16, header length u32, crc32 of these 14 bytes u32
    header     JSON (ASCII), crc32 u32
    record     kind u8, payload length u32, crc32 of these 5 bytes u32, payload, crc32 u32

The preamble keeps its layout in every later format version, so an old reader can name a newer file.

Checks are chained: the crc32 of a record runs over kind, length and payload, starts from the crc32 of the
record before it (the first from the header's, the header's from the preamble's) and is therefore a crc32 of
the whole run so far. A dropped, repeated or reordered record breaks it. The four bytes before any record are
the start value it needs, which makes it possible to go on from any record boundary.

The lengths have a check of their own. Without it a damaged length that points behind the end of the file
would look like a record that was being written when the process died, and the reader would cut it off and
everything after it without a word. What is left undetected, by construction: a file cut exactly between two
records is a shorter journal, and of a torn last record only the first nine bytes can be checked.

Payload of a step (kind 1): step u32, accepted u8, loss, lr, zo_eps and then the scalars, each float64; their
number follows from the length. One scalar makes a record of 50 bytes. Payload of an evaluation (kind 2): JSON
`{"step": 100, "metrics": {"accuracy": 0.91}}`, in which a metric that is not finite, for which JSON has no
number, is one of the strings "nan", "inf" and "-inf". Payload of a step at which something was observed that its
update needs (kind 3): the number of its scalars u32, the payload of kind 1, and the observation, which is the
schedule's own and reaches to the end. Payload of a rollback (kind 4): JSON `{"step": 100, "detected_at": 160,
"cause": "exploding_loss", "lr_factor": 0.1}`. A reader that does not know a kind names it and the version it needs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import TypeAlias
from zlib import crc32

from foretune.errors import UsageError

FORMAT_VERSION = 1
# As in PNG: a byte above 127 and both line ends, so that a transfer in text mode is found at once.
MAGIC = b"\x89FTJ\r\n\x1a\n"

KIND_STEP = 1
KIND_EVALUATION = 2
KIND_OBSERVED_STEP = 3
KIND_ROLLBACK = 4

PREAMBLE = struct.Struct("<8sHI")  # magic, format version, header length; followed by a CRC
PREFIX = struct.Struct("<BI")  # kind, payload length; followed by a CRC
CRC = struct.Struct("<I")
PREAMBLE_BYTES = PREAMBLE.size + CRC.size
CHECKED_PREFIX = struct.Struct("<BII")  # the same with its CRC
NUM_SCALARS = struct.Struct("<I")

_FIXED_BYTES = struct.calcsize("<I?ddd")
_MAX_STEP = 2**32 - 1


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: all that regenerates its update.

    Args:
        step: Index of the update, from 0.
        scalars: What the update needs beside the directions (for MeZO the projected gradient, one a
            direction), float64.
        loss: The logged training loss, float64; may be nan or infinite.
        lr: Learning rate of this step.
        zo_eps: Perturbation scale of this step, in units of the parameters.
        accepted: False where a loss was not finite; the scalars of its block are then 0.
        observation: What the schedule saw in the forwards and the update needs; empty for most.
    """

    step: int
    scalars: tuple[float, ...]
    loss: float
    lr: float
    zo_eps: float
    accepted: bool
    observation: bytes = b""


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation: its metrics, and the number of steps completed when it was made."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class RollbackRecord:
    """The run went back: the steps it had made from `step` on are dropped, and those that follow are made anew.

    Args:
        step: The number of steps that were kept.
        detected_at: The number of steps made when the cause was noticed.
        cause: Why, by its name.
        lr_factor: What the learning rate of all steps from here on is multiplied by.
    """

    step: int
    detected_at: int
    cause: str
    lr_factor: float


Record: TypeAlias = StepRecord | EvaluationRecord | RollbackRecord


def encode_preamble_and_header(header_json: bytes) -> bytes:
    """Return the bytes a journal begins with, up to its first record."""
    preamble = PREAMBLE.pack(MAGIC, FORMAT_VERSION, len(header_json))
    chain = crc32(preamble)
    return b"".join((preamble, CRC.pack(chain), header_json, CRC.pack(crc32(header_json, chain))))


def encode_record(record: Record, chain: int) -> tuple[bytes, int]:
    """Return a record's bytes and its CRC, which is the `chain` of the record after it.

    Args:
        chain: CRC of the record before, or of the header.
    Raises:
        UsageError: a field has no place in the format (a step outside 0 to 2**32 - 1, a scalar that is no
            number, a metric whose name is no string).
    """
    if isinstance(record, StepRecord) and record.observation:
        kind, payload = KIND_OBSERVED_STEP, _encode_observed_step(record)
    elif isinstance(record, StepRecord):
        kind, payload = KIND_STEP, _encode_step(record)
    elif isinstance(record, RollbackRecord):
        kind, payload = KIND_ROLLBACK, _encode_rollback(record)
    else:
        kind, payload = KIND_EVALUATION, _encode_evaluation(record)
    prefix = PREFIX.pack(kind, len(payload))
    check = crc32(payload, crc32(prefix, chain))
    return b"".join((prefix, CRC.pack(crc32(prefix)), payload, CRC.pack(check))), check


def decode_step(payload: bytes) -> StepRecord:
    """Return the step a payload of kind 1 holds; ValueError where its length fits no number of scalars."""
    num_scalars, rest = divmod(len(payload) - _FIXED_BYTES, 8)
    if rest or num_scalars < 0:
        raise ValueError(f"its payload has {len(payload)} bytes, expected {_FIXED_BYTES} and 8 a scalar")
    values = _step_layout(num_scalars).unpack(payload)
    step, accepted, loss, lr, zo_eps = values[:5]
    return StepRecord(step, values[5:], loss, lr, zo_eps, accepted)


def decode_observed_step(payload: bytes) -> StepRecord:
    """Return the step a payload of kind 3 holds; ValueError where it is too short for its number of scalars."""
    start = NUM_SCALARS.size
    num_scalars = int.from_bytes(payload[:start], "little")
    stop = start + _FIXED_BYTES + 8 * num_scalars
    if len(payload) <= stop:
        raise ValueError(f"its payload has {len(payload)} bytes, expected more than {stop} for {num_scalars} scalars")
    return replace(decode_step(payload[start:stop]), observation=payload[stop:])


def decode_evaluation(payload: bytes) -> EvaluationRecord:
    """Return the evaluation a payload of kind 2 holds; ValueError where it is not of the documented form."""
    content = json.loads(payload)
    try:
        step, metrics = content["step"], content["metrics"].items()
        return EvaluationRecord(step, {name: float(value) for name, value in metrics})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError('its payload is not {"step": ..., "metrics": {...}}') from error


def decode_rollback(payload: bytes) -> RollbackRecord:
    """Return the rollback a payload of kind 4 holds; ValueError where it is not of the documented form."""
    try:
        return RollbackRecord(**json.loads(payload))
    except TypeError as error:
        raise ValueError(f"its payload has not the keys {', '.join(RollbackRecord.__slots__)}") from error


def _encode_step(record: StepRecord) -> bytes:
    try:
        return _step_layout(len(record.scalars)).pack(
            record.step, record.accepted, record.loss, record.lr, record.zo_eps, *record.scalars
        )
    except (struct.error, OverflowError) as error:
        raise UsageError(
            f"{record} cannot be journalled ({error}): its step is an integer from 0 to {_MAX_STEP}, its "
            "other fields are float64 numbers."
        ) from error


def _encode_observed_step(record: StepRecord) -> bytes:
    if not isinstance(record.observation, bytes):
        raise UsageError(f"The observation of step {record.step} is {record.observation!r}, expected bytes.")
    return b"".join((NUM_SCALARS.pack(len(record.scalars)), _encode_step(record), record.observation))


def _encode_evaluation(record: EvaluationRecord) -> bytes:
    _check_step(record)
    return _json({"step": record.step, "metrics": _json_metrics(record.metrics)})


def _encode_rollback(record: RollbackRecord) -> bytes:
    _check_step(record)
    if not (math.isfinite(record.lr_factor) and record.step < record.detected_at):
        raise UsageError(f"{record} cannot be journalled: a run goes back by at least a step, with a finite factor.")
    return _json(asdict(record))


def _check_step(record: EvaluationRecord | RollbackRecord) -> None:
    if not isinstance(record.step, int) or not 0 <= record.step <= _MAX_STEP:
        raise UsageError(f"{record} cannot be journalled: its step is {record.step!r}, expected 0 to {_MAX_STEP}.")


def _json(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def _json_metrics(metrics: Mapping[str, float]) -> dict[str, float | str]:
    encoded: dict[str, float | str] = {}
    for name, value in metrics.items():
        if not isinstance(name, str):
            raise UsageError(f"Metric names are strings; {name!r} is {type(name).__name__}.")
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"Metric {name!r} is {value!r}, expected a number.") from error
        encoded[name] = number if math.isfinite(number) else str(number)
    return encoded


@cache
def _step_layout(num_scalars: int) -> struct.Struct:
    return struct.Struct(f"<I?ddd{num_scalars}d")
