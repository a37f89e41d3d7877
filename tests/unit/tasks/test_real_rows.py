"""Every real row at hand passes its checks and becomes an example; sizes and majorities are the published ones."""

from __future__ import annotations

import pytest

from foretune.data import load_task_data
from foretune.data.loading import load_split
from foretune.tasks import GenerationTask, get_task, list_tasks

CAUSAL = [name for name in list_tasks() if get_task(name).templates]


@pytest.mark.parametrize("name", CAUSAL)
def test_every_row_becomes_an_example(real_data_dir, name):
    task = get_task(name)
    for split in (task.train_split, task.eval_split):
        rows = load_split(task, split, real_data_dir)
        usable = [row for row in rows.rows if task.is_usable(row)]
        assert len(usable) == len(rows) > 0, "these files have no row without an answer"
        for version in task.templates:
            template = task.template(version)
            for example in (task.example(row, template) for row in usable):
                assert not example.prompt.endswith(" ")
                assert all(example.candidates)
                assert all(0 <= index < len(example.candidates) for index in example.correct)
                assert bool(example.answers) == isinstance(task, GenerationTask)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("wsc", (54, 500, 104)),
        ("cb", (150, 100, 56)),
        ("copa", (300, 100, 100)),
        ("rte", (1000, 500, 277)),
        ("wic", (1000, 500, 638)),
        ("winogrande", (1000, 500, 1000)),
        ("dolly", (2000, 200, 200)),
    ],
)
def test_published_sizes(real_data_dir, name, sizes):
    data = load_task_data(name, real_data_dir)
    assert (len(data.train), len(data.dev), len(data.evaluation)) == sizes
    names = [row.name for part in (data.train, data.dev, data.evaluation) for row in part]
    assert len(set(names)) == sum(sizes)


@pytest.mark.parametrize(
    ("name", "percent"),
    [
        ("sst2", 50.9),
        ("rte", 52.7),
        ("cb", 50.0),
        ("wsc", 63.5),
        ("wic", 50.0),
        ("copa", 55.0),
        ("winogrande", 50.4),
    ],
)
def test_majority_of_the_whole_validation_split(real_data_dir, name, percent):
    data = load_task_data(name, real_data_dir, num_train=0, num_dev=0, num_eval=2000)
    assert round(100 * data.majority["accuracy"], 1) == percent


def test_boolq_records_the_form_that_was_read(real_data_dir):
    assert load_task_data("boolq", real_data_dir, num_train=1, num_dev=1, num_eval=1).describe()["form"] == "super_glue"
