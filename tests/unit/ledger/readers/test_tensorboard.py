"""Event files."""

from __future__ import annotations

import math
import shutil

import pytest

from foretune.errors import UsageError
from foretune.ledger.readers import read_logs
from foretune.ledger.readers.tensorboard import masked_crc32c


def test_scalars_that_torch_has_written(golden):
    (log,) = read_logs(golden / "tensorboard")
    assert (log.name, log.source, log.status) == ("tensorboard", "tensorboard", "imported")
    assert [point.step for point in log.points] == [0, 10, 20, 30, 40, 50]
    assert [point.figures.get("loss") for point in log.points[:2]] == [1.0, pytest.approx(1 / 11)]
    assert [point.figures["eval_accuracy"] for point in log.points[:5]] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert math.isnan(log.points[-1].figures["loss"])
    assert log.points[-1].figures["learning_rate"] == pytest.approx(1e-6)  # a tensor, of the new style
    assert (log.started.timestamp(), log.seconds, log.steps) == (1700000000, 50, 50)


def test_scalars_as_tensors(golden):
    (log,) = read_logs(golden / "tensorboard_tensors")
    assert [(point.step, point.figures) for point in log.points] == [(s, {"loss": s + 0.25}) for s in range(3)]


def test_a_folder_is_one_run_and_folders_below_are_others(golden, tmp_path):
    for name in ("a/one", "a/two", "b/one"):
        folder, _, file = name.partition("/")
        (tmp_path / folder).mkdir(exist_ok=True)
        source = "tensorboard" if file == "one" else "tensorboard_tensors"
        (events,) = (golden / source).iterdir()
        shutil.copy(events, tmp_path / folder / f"{events.name}.{file}")
    first, second = read_logs(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.id != second.id
    assert [point.figures["loss"] for point in first.points[:3]] == [0.25, 1.25, 2.25]  # the later file wins
    assert len(first.points) == 8
    assert read_logs(tmp_path / "a")[0].id == first.id


def test_a_torn_end_is_left_out_and_damage_is_named(golden, tmp_path):
    (events,) = (golden / "tensorboard").iterdir()
    data = events.read_bytes()
    path = tmp_path / events.name
    path.write_bytes(data[:-5])
    (log,) = read_logs(path)
    assert [point.step for point in log.points][-2:] == [40, 50]
    damaged = bytearray(data)
    damaged[200] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"the record at byte \d+ is damaged"):
        read_logs(path)
    path.write_bytes(b"this is no event file")
    with pytest.raises(UsageError, match="the record at byte 0 is damaged, or this is no event file"):
        read_logs(path)


def test_crc_by_its_published_check_value():
    crc = 0xE3069283  # CRC-32C of "123456789"
    assert masked_crc32c(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
