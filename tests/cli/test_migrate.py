"""`foretune migrate` from the shell: what it prints is a command, a file, and remarks."""

from __future__ import annotations

import io
import shlex
import sys

import pytest
import yaml

from foretune.cli.main import main
from foretune.cli.train import parse

RUN = "python run.py --model_name m --task_name SST2 --trainer zo --learning_rate 1e-6 --zo_eps 1e-3"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _printed(capsys, *words):
    assert main(["migrate", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def _commands(output: str) -> list[list[str]]:
    """The commands in what was printed, as a shell reads them."""
    lines = output.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("foretune train ")]


def _file(output: str) -> dict:
    return yaml.safe_load(output.partition("--config\n")[2].partition("\n\n#")[0])


def test_command_and_file_say_the_same(capsys, tmp_path):
    output = _printed(capsys, f"{RUN} --output_dir 'my run' --tag x --zo_epss 3")
    (command,) = _commands(output)
    config = parse(command)
    assert (config.output, config.lr, config.method["name"]) == ("my run", 1e-6, "mezo")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(_file(output)))
    from_file = vars(parse(["--config", "run.yaml"])) | {"config": None}
    assert from_file == vars(config)
    assert "# No counterpart in foretune:\n#   --tag x: " in output
    assert "--zo_epss 3: MeZO does not know it. Did you mean: zo_eps?" in output


def test_quoted_split_piped_and_in_a_file_are_one(capsys, tmp_path, monkeypatch):
    quoted = _printed(capsys, RUN)
    assert _printed(capsys, "--", *RUN.split()) == quoted
    assert _printed(capsys, *RUN.split()) == quoted
    monkeypatch.setattr(sys, "stdin", io.StringIO(RUN.replace(" --", " \\\n  --")))
    assert _printed(capsys, "-") == quoted
    (tmp_path / "run.sh").write_text(f"#!/bin/bash\n{RUN}\n")
    assert _printed(capsys, "run.sh") == quoted
    assert _printed(capsys, "--code", "mezo", RUN) == quoted
    assert _printed(capsys, "--code=mezo", RUN) == quoted


def test_a_file_with_several_runs(capsys, tmp_path):
    (tmp_path / "runs.sh").write_text(f"module load cuda\n{RUN}\n{RUN.replace('1e-6', '1e-7')}\n")
    output = _printed(capsys, "runs.sh")
    assert [parse(command).lr for command in _commands(output)] == [1e-6, 1e-7]
    assert "# Not a part of the run:\n#   line 1: module load cuda" in output


def test_a_sweep_prints_every_run_and_what_they_share(capsys, tmp_path):
    content = {
        "parameters": {"learning_rate": {"values": [1e-6, 1e-7]}, "zo_eps": {"values": [1e-3, 1e-4]}},
        "command": ["${args}", "--model_name=m", "--task_name=SST2", "--trainer=zo_sgd"],
    }
    (tmp_path / "sweep.yml").write_text(yaml.safe_dump(content))
    output = _printed(capsys, "sweep.yml")
    found = [(config.lr, config.zo_eps) for config in map(parse, _commands(output))]
    assert found == [(1e-6, 1e-3), (1e-6, 1e-4), (1e-7, 1e-3), (1e-7, 1e-4)]
    shared = _file(output)
    assert shared["method"] == {"name": "mezo"}
    assert not {"lr", "zo_eps", "output"} & set(shared)


def test_an_evaluation(capsys):
    output = _printed(capsys, "python run.py --model_name m --task_name SST2 --num_train 32")
    assert "foretune evaluate" in output
    assert "--demonstrations 32" in output
