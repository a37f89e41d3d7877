"""Folders of W&B on the disk."""

from __future__ import annotations

import json
import math
import struct

import pytest

from foretune.errors import UsageError
from foretune.ledger.readers import read_logs

CONFIG = {
    **{"task_name": "SST2", "model_name": "facebook/opt-1.3b", "trainer": "zo_sgd", "learning_rate": 1e-6},
    **{"zo_eps": 1e-3, "max_steps": 40, "seed": 0, "train_set_seed": 0, "lora": False},
}


def test_an_offline_run_that_wandb_has_written(golden):
    (log,) = read_logs(golden / "wandb")
    assert (log.id, log.name, log.source, log.status) == ("wandb-evg21kgr", "sst2-mezo", "wandb_run", "finished")
    assert log.config == CONFIG
    assert [point.step for point in log.points] == [0, 10, 20, 30, 40, 50]  # global steps, not calls of log
    assert [point.figures["loss"] for point in log.points[:5]] == [1 / (step + 1) for step in range(0, 50, 10)]
    assert {point.step: point.figures["eval_loss"] for point in log.points if "eval_loss" in point.figures} == {
        step: 0.7 - step / 100 for step in (0, 20, 40)
    }
    assert math.isnan(log.points[-1].figures["loss"])
    assert log.points[-1].figures["test_acc"] == 0.91  # logged without a global step: at the last one
    assert 0 < log.points[0].figures["seconds"] < 10
    assert (log.metrics["last.test_acc"], log.metrics["last.nested.a"]) == (0.91, 40)
    assert log.started.isoformat() == "2026-11-24T20:40:39+00:00"


def test_an_online_run_has_files_and_an_old_one_its_history_too(tmp_path):
    files = tmp_path / "wandb" / "run-20230601_120000-abcd1234" / "files"
    files.mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to(files.parent)
    (files / "config.yaml").write_text("wandb_version: 1\n_wandb: {value: {}}\nlr: {desc: null, value: 0.5}\n")
    (files / "wandb-summary.json").write_text('{"loss": "NaN", "_runtime": 7, "_step": 1, "eval/acc": 0.5}')
    rows = [{"_step": 0, "_runtime": 1, "train/loss": 2.0}, {"_step": 1, "_runtime": 5, "train/loss": 1.5}]
    (files / "wandb-history.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"torn')
    (log,) = read_logs(tmp_path)
    assert (log.id, log.name, log.config, log.seconds) == ("wandb-abcd1234", "abcd1234", {"lr": 0.5}, 7)
    assert [(p.step, p.figures) for p in log.points] == [
        (0, {"loss": 2.0, "seconds": 1}),
        (1, {"loss": 1.5, "seconds": 5}),
    ]
    assert log.metrics["last.eval_acc"] == 0.5
    assert math.isnan(log.metrics["last.loss"])
    (files / "wandb-summary.json").write_text("{")
    with pytest.raises(UsageError, match=r"wandb-summary\.json cannot be read"):
        read_logs(tmp_path)


def _field(number, value):
    """Encode one field: bytes with their length, or an integer."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _history(step, **figures):
    items = [_field(1, _field(2, k.encode()) + _field(16, json.dumps(v).encode())) for k, v in figures.items()]
    return _field(2, b"".join(items) + _field(2, _field(1, step)))


def _log(records):
    """Cut records into chunks and blocks as LevelDB's log does."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        begun = False
        while record is not None:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += b"\0" * room
                continue
            part, rest = record[: room - 7], record[room - 7 :]
            kind = {(False, False): 1, (False, True): 2, (True, True): 3, (True, False): 4}[begun, bool(rest)]
            data += struct.pack("<IHB", 0, len(part), kind) + part
            begun, record = True, rest or None
    return bytes(data)


def _folder(tmp_path, data):
    folder = tmp_path / "run-20230601_120000-abcd1234"
    folder.mkdir(exist_ok=True)
    (folder / "run-abcd1234.wandb").write_bytes(data)
    return folder


@pytest.mark.parametrize("padding", [32768 - 7 - left - 7 for left in range(9)] + [100_000])
def test_records_cross_blocks(tmp_path, padding):
    records = [
        _history(3, loss=1.5),
        _field(9, b"x" * (padding - 30)),
        _history(4, loss=1.25),
        _field(18, _field(1, 1)),
    ]
    (log,) = read_logs(_folder(tmp_path, _log(records)))
    assert [(point.step, point.figures) for point in log.points] == [(3, {"loss": 1.5}), (4, {"loss": 1.25})]
    assert log.status == "failed"


def test_a_torn_end_is_left_out_and_another_file_is_refused(tmp_path):
    data = _log([_history(3, loss=1.5), _history(4, loss=1.25)])
    (log,) = read_logs(_folder(tmp_path, data[:-3]))
    assert [point.step for point in log.points] == [3]
    with pytest.raises(UsageError, match="is no log of W&B"):
        read_logs(_folder(tmp_path, b"something"))
    with pytest.raises(UsageError, match="the chunk at byte 7 is damaged"):
        read_logs(_folder(tmp_path, data[:13] + b"\x09" + data[14:]))
    with pytest.raises(UsageError, match="the record at byte 7 is damaged"):
        read_logs(_folder(tmp_path, _log([b"\x12\x50"])))
