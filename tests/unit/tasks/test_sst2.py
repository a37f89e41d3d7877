from __future__ import annotations

import pytest

from foretune.tasks import get_task

ROW = {"sentence": "a quiet film that earns its tears ", "label": 1, "idx": 7}
PROMPTS = {
    "v0": {
        "prompt": "a quiet film that earns its tears It was",
        "targets": (" terrible", " great"),
        "sfc_prompt": "It was",
        "sfc_targets": (" terrible", " great"),
    },
    "v1": {
        "prompt": "a quiet film that earns its tears",
        "targets": (" terrible", " great"),
        "sfc_prompt": "",
        "sfc_targets": ("terrible", "great"),
    },
}


@pytest.mark.parametrize("version", PROMPTS)
def test_golden_prompt_and_options(version):
    task, golden = get_task("sst2"), PROMPTS[version]
    example = task.example(ROW, task.template(version))
    assert (example.prompt, example.candidates) == (golden["prompt"], golden["targets"])
    assert example.correct == (1,)


@pytest.mark.parametrize("version", PROMPTS)
def test_golden_calibration_strings(version):
    task, golden = get_task("sst2"), PROMPTS[version]
    calibration = task.calibration(ROW, task.template(version))
    assert (calibration.prompt, calibration.candidates) == (golden["sfc_prompt"], golden["sfc_targets"])


def test_published_setting():
    task = get_task("sst2")
    assert [str(source) for source in task.sources] == ["nyu-mll/glue (sst2)", "glue (sst2)"]
    assert (task.train_split, task.eval_split) == ("train", "validation")
    assert (task.num_train, task.num_dev, task.num_eval) == (1000, 500, 1000)
    assert (task.default_template, task.objective, task.metric) == ("v0", "classification", "accuracy")
