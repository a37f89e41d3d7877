"""Training on what has no gradient: metrics of candidates, metrics of texts, a reward of the user's own."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from foretune.cli.main import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "objectives.md").read_text()


def results(folder) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def test_accuracy_as_the_objective(train_words, tmp_path):
    assert main([*train_words, "--objective", "accuracy"]) == 0
    found = results(tmp_path / "run")
    assert found["objective"] == "accuracy"
    for model in ("zero_shot", "final"):
        assert found["metrics"][model]["loss"] == -found["metrics"][model]["accuracy"]


def test_the_reward_of_the_page(tiny_model, tmp_path, monkeypatch):
    """Rows, as many as a run needs, function and command as they stand in docs/objectives.md."""
    monkeypatch.chdir(tmp_path)
    blocks = dict(re.findall(r"```(json|python|bash)\n(.*?)```", PAGE, re.DOTALL))
    Path("questions.jsonl").write_text(blocks["json"] * 5)
    Path("rewards.py").write_text(blocks["python"])
    command = blocks["bash"].replace("\\\n", "").replace("facebook/opt-125m", str(tiny_model)).replace("1000", "2")
    words = shlex.split(command.replace("--max-new-tokens 32", "--max-new-tokens 4"))[1:]
    assert main([*words, "--device", "cpu", "--batch-size", "2", "--max-length", "60"]) == 0
    found = results("runs/brief")
    assert found["engine"] == "in_place"
    assert list(found["metrics"]["final"]) == ["brevity", "loss"]
    assert -4 <= found["metrics"]["final"]["brevity"] <= 0


def test_a_reward_of_rows_with_answers_reports_text_metrics_too(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"q": "is the film good", "a": "the film is great"}\n' * 12)
    Path("rewards.py").write_text("def length(texts, examples):\n    return [len(text) for text in texts]\n")
    words = "train --data rows.jsonl --output run --device cpu --steps 2 --batch-size 2 --max-length 60"
    words = [*words.split(), "--model", str(tiny_model), "--prompt", "{q} ?", "--completion", " {a}"]
    assert main([*words, "--max-new-tokens", "4", "--objective", "rewards.py:length"]) == 0
    assert list(results("run")["metrics"]["final"]) == ["length", "f1", "exact_match", "rouge_l", "loss"]
