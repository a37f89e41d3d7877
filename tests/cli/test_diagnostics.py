"""`foretune train --diagnostics N`: more lines in metrics.jsonl, and otherwise the same run."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from foretune.cli.main import main


def _lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("method", ["mezo", "adamw"])
def test_the_run_is_the_same_and_can_be_resumed_without(train_words, tmp_path, method):
    words = [*train_words, "--method", method]
    plain = [word.replace(str(tmp_path / "run"), str(tmp_path / "plain")) for word in words]
    assert main([*words, "--diagnostics", "2"]) == main(plain) == 0
    first, second = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("run", "plain"))
    assert all((first[name] == second[name]).all() for name in second)
    if method == "mezo":
        assert (tmp_path / "run" / "journal").read_bytes() == (tmp_path / "plain" / "journal").read_bytes()
    notes = [line for line in _lines(tmp_path / "run") if "diagnostics" in line]
    assert [json.loads(line)["step"] for line in notes] == [0, 2, 4]
    assert [line for line in _lines(tmp_path / "run") if line not in notes] == _lines(tmp_path / "plain")
    figures = json.loads(notes[-1])["diagnostics"]
    assert figures.keys() == {"matrices", "vectors", "all"}
    assert ("cosine" in figures["all"]) == (method == "mezo")
    assert figures["all"]["distance"] > 0
    assert main([*words, "--resume"]) == 0


def test_lora_matrices_stand_apart(train_words, tmp_path):
    assert main([*train_words, "--tuning", "lora", "--diagnostics", "6"]) == 0
    line = next(json.loads(line) for line in _lines(tmp_path / "run") if "diagnostics" in line)
    assert line["diagnostics"].keys() == {"lora_a", "lora_b", "all"}
