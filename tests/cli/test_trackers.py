"""`foretune train --report-to`: refused before any work, or a run like any other whose figures a tracker has too."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from foretune.cli.main import main
from foretune.errors import TrackerError
from foretune.runs import sources
from foretune.trainer import tracking


@pytest.fixture(autouse=True)
def _without_ledger(monkeypatch):
    monkeypatch.setenv("FORETUNE_LEDGER", "none")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("tensorbord", "--report-to tensorbord: there is no such tracker. Did you mean: tensorboard"),
        ("comet_ml", "--report-to comet_ml: there is no such tracker."),  # one of transformers that was not tried
        ("mlflow trackio", "--report-to trackio: trackio is not installed; pip install trackio."),
    ],
)
def test_trackers_that_cannot_be_had_are_refused_first(train_words, tmp_path, capsys, monkeypatch, names, message):
    monkeypatch.setitem(tracking._AVAILABLE, "mlflow", lambda: True)
    monkeypatch.setitem(tracking._AVAILABLE, "trackio", lambda: False)
    monkeypatch.setattr(sources, "load_rows", None)  # nothing is read
    assert main([*train_words, "--report-to", *names.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_tracked_run_is_the_run_without(train_words, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    plain = [word.replace(str(tmp_path / "run"), str(tmp_path / "plain")) for word in train_words]
    assert main([*train_words, "--report-to", "tensorboard"]) == main(plain) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "run"]
    for name in ("journal", "metrics.jsonl", "README.md", "final/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert "report_to" not in yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for name, value in results["metrics"]["final"].items():
        (event,) = events.Scalars(f"test/{name}")
        assert (event.step, event.value) == (6, pytest.approx(value, rel=1e-6))
    assert [event.step for event in events.Scalars("train/projected_grad_rms")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("eval/loss")] == [3, 6]


class _NoServer(Exception):
    pass


@pytest.mark.parametrize(
    ("mode", "login", "message"),
    [
        ("online", False, "--report-to wandb: there is no key: 'wandb login', or WANDB_MODE=offline"),
        ("online", _NoServer("no such\nhost"), "--report-to wandb: no such host WANDB_MODE=offline needs no server"),
        ("online", True, None),
        ("offline", False, None),
    ],
)
def test_an_online_run_of_wandb_needs_a_key(monkeypatch, mode, login, message):
    def answer(*, prompt):
        if isinstance(login, Exception):
            raise login
        return login

    setup = SimpleNamespace(settings=SimpleNamespace(mode=mode))
    errors = SimpleNamespace(Error=_NoServer)
    fake = SimpleNamespace(run=None, setup=lambda: setup, login=answer, errors=errors)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    if message is None:
        tracking.check_login(["wandb"], option="--report-to")
        return
    with pytest.raises(TrackerError, match=message):
        tracking.check_login(["wandb"], option="--report-to")
