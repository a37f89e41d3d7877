"""Prompts, options and calibration texts against recorded ones: the published facts, and two rows a task in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foretune.tasks import GenerationTask, get_task, list_tasks
from golden.tasks.record import HERE, ROWS, rendered

PUBLISHED = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(block, version, id=f"{block['task']}-{version}") for block in PUBLISHED for version in block["prompts"]
]
CHOICES = [
    pytest.param(block, version, id=f"{block['task']}-{version}")
    for block in PUBLISHED
    for version in block["prompts"]
    if block["candidates"] is not None
]


@pytest.mark.parametrize(("block", "version"), CASES)
def test_published_prompts_and_targets(block, version):
    task, golden = get_task(block["task"]), block["prompts"][version]
    task.check_row(block["row"], "here")
    example = task.example(block["row"], task.template(version))
    assert (example.prompt, list(example.candidates)) == (golden["prompt"], golden["targets"])
    assert task.is_usable(block["row"])


@pytest.mark.parametrize(("block", "version"), CHOICES)
def test_published_calibration_texts(block, version):
    task, golden = get_task(block["task"]), block["prompts"][version]
    calibration = task.calibration(block["row"], task.template(version))
    assert (calibration.prompt, list(calibration.candidates)) == (golden["sfc_prompt"], golden["sfc_targets"])
    assert calibration.correct == task.correct(block["row"])


@pytest.mark.parametrize("block", PUBLISHED, ids=lambda block: block["task"])
def test_published_candidates_and_right_answers(block):
    task, row = get_task(block["task"]), block["row"]
    candidates, right = block["candidates"], block["correct"]
    if candidates is None:
        assert isinstance(task, GenerationTask)
        assert list(task.example(row, task.template()).answers) == right
    elif isinstance(right, int):
        assert (list(range(len(task.candidates(row)))), task.correct(row)) == (candidates, (right,))
    else:
        assert list(task.candidates(row)) == candidates
        assert [candidates[index] for index in task.correct(row)] == (right if isinstance(right, list) else [right])


@pytest.mark.parametrize("block", PUBLISHED, ids=lambda block: block["task"])
def test_every_template_is_published(block):
    assert list(get_task(block["task"]).templates) == list(block["prompts"])


@pytest.mark.parametrize("name", ROWS)
def test_rendered_rows(name):
    assert rendered(name) == (HERE / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ROWS)
def test_rendered_rows_pass_the_checks(name):
    for number, row in enumerate(ROWS[name]):
        get_task(name).check_row(row, f"row {number}")


def test_every_task_for_causal_models_is_recorded():
    causal = {name for name in list_tasks() if get_task(name).templates}
    assert set(ROWS) == causal == {path.stem for path in Path(HERE).glob("*.txt")}
    assert causal - {get_task(block["task"]).name for block in PUBLISHED} == {"dolly"}, "no published prompt"
