"""`foretune demo`: what a newcomer sees, what it leaves, and that the commands it prints do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from foretune.cli import demo as command
from foretune.cli.main import main
from foretune.runs.demo import making

NO_NETWORK = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("the demo asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from foretune.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
FOLDER = "my demo"
"""A name that a shell would take for two."""


def _commands(printed: str) -> list[list[str]]:
    """Return the commands that stand below a comment, as a shell splits them, without the program."""
    lines = printed.splitlines()
    split = [shlex.split(line) for above, line in pairwise(lines) if above.startswith("# ")]
    assert all(words[:3] == [sys.executable, "-m", "foretune.cli.main"] for words in split)
    return [words[3:] for words in split]


def _last_row(printed: str) -> list[str]:
    """Return the cells of the last row of a table: model, accuracy, loss."""
    row = [line for line in printed.splitlines() if line.startswith("│")][-1]
    return [cell.strip() for cell in row.strip("│").split("│")]


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole demo in a process of its own, without network: where, and what it printed."""
    where = tmp_path_factory.mktemp("newcomer")
    words = [sys.executable, "-c", NO_NETWORK, "demo", "--output", FOLDER]
    unwanted = ("FORCE_COLOR", "HF_HUB_OFFLINE", "FORETUNE_LEDGER")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return where, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # the demo itself, also on a machine that is busy
def test_accuracy_rises_from_near_chance(finished):
    where, printed = finished
    metrics = json.loads((where / FOLDER / "mezo" / "results.json").read_text())["metrics"]
    before, after = metrics["zero_shot"]["accuracy"], metrics["final"]["accuracy"]
    assert before < 0.65
    assert after > 0.9
    assert f"accuracy went from {100 * before:.1f} % to {100 * after:.1f} %" in " ".join(printed.split())


@pytest.mark.slow
def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(finished):
    _, printed = finished
    assert "\x1b" not in printed
    steps = [int(found) for found in re.findall(r"(?m)^step (\d+)  loss ", printed)]
    assert len(steps) >= 5
    assert steps == sorted(steps)
    assert re.search(r"(?m)^step \d+  eval_loss .* eval_accuracy ", printed)


@pytest.mark.slow
def test_it_leaves_a_run_that_is_drawn_and_ledgered(finished):
    where, _ = finished
    folder = where / FOLDER
    assert {path.name for path in folder.iterdir()} == {
        *("model", "train.jsonl", "test.jsonl", "reviews.yaml", "demo.yaml", "mezo", "runs.sqlite"),
    }
    assert (folder / "mezo" / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert {"results.json", "README.md", "journal", "final"} <= {path.name for path in (folder / "mezo").iterdir()}


@pytest.mark.slow
def test_the_commands_it_prints_do_what_they_say(finished, monkeypatch, capsys):
    where, printed = finished
    monkeypatch.chdir(where)
    evaluate, replay, resume = _commands(printed)
    tuned = _last_row(printed)
    assert main(evaluate) == 0
    assert _last_row(capsys.readouterr().out)[1:] == tuned[1:]
    assert main(replay) == 0
    assert _weights(Path(FOLDER, "replayed")) == _weights(Path(FOLDER, "mezo", "final"))
    capsys.readouterr()
    assert main(resume) == 0
    assert _last_row(capsys.readouterr().out) == tuned


@pytest.fixture
def short(monkeypatch, tmp_path):
    """A demo of few steps and rows, in an empty current folder."""
    small = {"steps": 12, "num_train": 40, "num_dev": 20, "eval_steps": 6, "log_steps": 3}
    monkeypatch.setattr(making, "_SETTINGS", {**making._SETTINGS, **small})
    for name, value in (("NUM_TRAIN", 40), ("NUM_DEV", 20), ("NUM_TEST", 30)):
        monkeypatch.setattr(making, name, value)
    monkeypatch.chdir(tmp_path)


def test_an_interrupted_demo_is_resumed_by_the_command_it_names(short, monkeypatch, capsys):
    """To the same bits."""
    from foretune.cli.display import _ProgressCallback

    assert main(["demo"]) == 0
    with monkeypatch.context() as patch:
        step_end = _ProgressCallback.on_step_end

        def interrupt(self, args, state, *rest, **kwargs):
            if state.global_step == 8:
                raise KeyboardInterrupt
            return step_end(self, args, state, *rest, **kwargs)

        patch.setattr(_ProgressCallback, "on_step_end", interrupt)
        assert main(["demo"]) == 130
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    line = printed[0].partition("this run goes on with: ")[2]
    assert not Path("runs", "demo-2", "mezo", "results.json").exists()
    assert main(shlex.split(line)[3:]) == 0
    assert _weights(Path("runs", "demo-2", "mezo", "final")) == _weights(Path("runs", "demo", "mezo", "final"))


def test_on_a_terminal_a_bar_moves(short, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["demo", "-o", "here", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b[" in printed
    assert "12/12" in printed
    assert Path("here", "mezo", "loss.png").is_file()


def test_a_command_names_the_program_that_was_started(monkeypatch, tmp_path):
    scripts = [tmp_path / folder / "foretune" for folder in ("first", "second")]
    for script in scripts:
        script.parent.mkdir()
        script.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(scripts[0].parent))
    for started, program in (
        (str(scripts[0]), "foretune"),
        (str(scripts[1]), shlex.quote(str(scripts[1]))),
        ("/somewhere/pytest", f"{shlex.quote(sys.executable)} -m foretune.cli.main"),
    ):
        monkeypatch.setattr(sys, "argv", [started])
        assert command.command("replay", "a b") == f"{program} replay 'a b'"
    assert shutil.which("foretune") == str(scripts[0])
