"""W&B's folders on the disk of the machine that ran: wandb/run-DATE-ID and wandb/offline-run-DATE-ID.

The history is in run-ID.wandb. After a head of 7 bytes (":W&B", two bytes that never change and a version) it is a log
of LevelDB: blocks of 32 KiB with chunks of CRC u32, length u16 and kind u8 (1 whole; 2, 3, 4 first, middle and last
part of a record). A record is a protocol buffer with history = 2, summary = 3, config = 5, run = 17 or exit = 18;
items of the first three have key = 1, nested_key = 2 and value_json = 16. Old versions wrote files/wandb-history.jsonl
instead. Settings and summary may be in files/config.yaml and files/wandb-summary.json.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import yaml

from foretune.errors import UsageError
from foretune.ledger.readers.base import AbstractReader, Log
from foretune.ledger.readers.protobuf import all_of, fields, integer_of, text_of
from foretune.ledger.readers.wandb_history import plain_config, points_of, summary_metrics
from foretune.ledger.run import Status

_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(\w+)")
_HEAD = b":W&B"
_HEAD_BYTES = 7
_BLOCK = 32 * 1024
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class WandbRun(AbstractReader):
    """A folder of one run."""

    source: ClassVar[str] = "wandb_run"
    what: ClassVar[str] = "folders wandb/run-DATE-ID of W&B"

    def knows(self, path: Path) -> bool:
        """Whether its name is that of such a folder."""
        return path.is_dir() and _FOLDER.fullmatch(path.name) is not None

    def read(self, path: Path) -> list[Log]:
        """Read settings, history and summary."""
        name = _FOLDER.fullmatch(path.name)
        assert name is not None
        found = _Found()
        for file in sorted(path.glob("run-*.wandb")):
            _read_binary(file, found)
        _read_files(path / "files", found)
        points = points_of(found.history)
        if not (points or found.config or found.summary):
            return []
        return [
            Log(
                id=f"wandb-{name[2]}",
                name=found.name or name[2],
                source=self.source,
                status=found.status,
                config=plain_config(found.config),
                points=points,
                metrics=summary_metrics(found.summary),
                started=datetime.strptime(name[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC),
                steps=points[-1].step if points else None,
                seconds=found.summary.get("_runtime"),
                output=str(path.absolute()),
            )
        ]


@dataclass(slots=True)
class _Found:
    name: str | None = None
    status: Status = "imported"
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def _read_files(folder: Path, found: _Found) -> None:
    path = folder / "config.yaml"
    try:
        if path.is_file():
            found.config |= yaml.safe_load(path.read_text()) or {}
        if (path := folder / "wandb-summary.json").is_file():
            found.summary |= json.loads(path.read_text())
        if not found.history and (path := folder / "wandb-history.jsonl").is_file():
            found.history += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


def _read_binary(path: Path, found: _Found) -> None:
    for place, record in _records(path):
        try:
            for number, value in fields(record):
                if not isinstance(value, bytes):
                    continue
                if number == 2:
                    row = _items(value, 1)
                    step = all_of(value, 2)
                    found.history.append(
                        row if "_step" in row or not step else {**row, "_step": integer_of(step[0], 1)}
                    )
                elif number == 3:
                    found.summary |= _items(value, 1)
                elif number == 5:
                    found.config |= _items(value, 1)
                elif number == 17:
                    found.name = text_of(value, 8) or found.name
                    for config in all_of(value, 4):
                        found.config |= _items(config, 1)
                elif number == 18:
                    found.status = "failed" if integer_of(value, 1) else "finished"
        except ValueError as error:
            raise UsageError(f"{path}: the record at byte {place} is damaged: {error}.") from None


def _items(message: bytes, number: int) -> dict[str, Any]:
    """Return keys and values of a list of items; a nested key becomes a dotted one."""
    found = {}
    for item in all_of(message, number):
        nested = [part.decode() for part in all_of(item, 2)]
        key = text_of(item, 1) or ".".join(nested)
        found[key] = json.loads(text_of(item, 16) or "null")
    return found


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the place and the bytes of each record; one that was being written when the program died ends them."""
    data = path.read_bytes()
    if not data.startswith(_HEAD):
        raise UsageError(f"{path} is no log of W&B: it begins with {data[:4]!r}.")
    place, begun, parts = _HEAD_BYTES, 0, b""
    while place + _CHUNK.size <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _CHUNK.size:  # the end of a block is filled with zeros
            place += left
            continue
        _, length, kind = _CHUNK.unpack_from(data, place)
        chunk = data[place + _CHUNK.size : place + _CHUNK.size + length]
        if len(chunk) < length:
            return
        if kind in (_WHOLE, _FIRST):
            begun, parts = place, chunk
        elif kind in (_MIDDLE, _LAST):
            parts += chunk
        else:
            raise UsageError(f"{path}: the chunk at byte {place} is damaged.")
        if kind in (_WHOLE, _LAST):
            yield begun, parts
        place += _CHUNK.size + length
