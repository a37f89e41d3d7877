"""What a user gets wrong: one line that names it, a non-zero exit, nothing lost, before any model is loaded."""

from __future__ import annotations

import os

import pytest

from foretune.cli.main import main


def _fails(words, capsys, *parts, code=2):
    assert main(list(words)) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("foretune: error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(autouse=True)
def _no_model_is_loaded(request, monkeypatch):
    """Every one of these mistakes is found before a model is loaded."""
    from foretune.runs import sources

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(sources, "load_model", refuse)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("train --model /no/such/model", ["--model /no/such/model", "no such folder"]),
        ("train --data-dir /no/such/data", ["/no/such/data", "not a folder"]),
        ("train --template v9", ["'v9'", "v0"]),
        ("train --num-dev 40", ["train"]),
    ],
)
def test_options(train_words, tmp_path, capsys, words, parts):
    command, *change = words.split()
    given = [command, *train_words[1:], *change] if command == "train" else [command]
    _fails(given, capsys, *parts)
    assert not (tmp_path / "run" / "journal").exists()


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["no rows"]),
        ('{"sentence": "good ", "label": 1}\nnot json\n', ["line 2"]),
        ('{"sentence": "good "}\n', ["line 1", "'label' is missing"]),
        ('{"sentence": "good ", "label": 2}\n', ["line 1", "'label' is 2", "0 to 1"]),
        ('{"sentence": "good ", "label": "pos"}\n', ["line 1", "'pos'", "an integer"]),
        ("[1, 2]\n", ["line 1"]),
    ],
)
def test_data_files(train_words, rows_dir, tmp_path, capsys, content, parts):
    folder = tmp_path / "data" / "sst2"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(content)
    (folder / "validation.jsonl").write_text((rows_dir / "sst2" / "validation.jsonl").read_text())
    words = [str(tmp_path / "data") if word == str(rows_dir) else word for word in train_words]
    _fails(words, capsys, "train.jsonl", *parts)


def test_missing_data_files(train_words, rows_dir, tmp_path, capsys):
    words = [str(tmp_path) if word == str(rows_dir) else word for word in train_words]
    _fails(words, capsys, "'sst2'")
    (tmp_path / "sst2").mkdir()
    _fails(words, capsys, "train.jsonl", "does not exist")


def test_an_output_that_cannot_be_written(train_words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    _fails(train_words, capsys, "--output", "not writable")


def test_evaluate(tiny_model, rows_dir, capsys):
    words = f"evaluate --model {tiny_model} --data-dir {rows_dir}".split()
    _fails(words, capsys, "--task is missing")
    _fails([*words, "--task", "sst2", "--num-eval", "0"], capsys, "--num-eval must be at least 1")
    _fails(["evaluate", "--model", "/no/such", "--task", "sst2"], capsys, "no such folder")


def test_other_commands(capsys):
    _fails(["methods", "loz"], capsys, "Did you mean: lozo")
    _fails(["methods", "a", "b"], capsys, "Unexpected argument 'b'")
    _fails(["env", "--all"], capsys, "'--all'")
    _fails(["demo", "--fast"], capsys, "--fast")
