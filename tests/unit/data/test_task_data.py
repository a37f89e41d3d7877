from __future__ import annotations

import json
import logging

import pytest

from foretune.data import load_task_data
from foretune.data.sampling import draw
from foretune.errors import UsageError


@pytest.fixture
def small_data(tmp_path):
    """30 training rows, 12 evaluation rows of which 8 are positive."""
    (tmp_path / "sst2").mkdir()
    for split, labels in (("train", [0, 1] * 15), ("validation", [1, 1, 0] * 4)):
        rows = [{"sentence": f"{split} {number}", "label": label} for number, label in enumerate(labels)]
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_parts_are_the_seeded_draws_in_order(small_data):
    data = load_task_data("sst2", small_data, num_train=10, num_dev=5, num_eval=4, train_set_seed=3)
    drawn = draw(30, 15, seed=3)
    assert [row.row["sentence"] for row in data.train] == [f"train {index}" for index in drawn[:10]]
    assert [row.row["sentence"] for row in data.dev] == [f"train {index}" for index in drawn[10:]]
    assert [row.row["label"] for row in data.train] == [index % 2 for index in drawn[:10]]
    assert [row.name for row in data.evaluation] == [f"sst2 validation row {index}" for index in draw(12, 4, seed=3)]
    assert data.train_set_seed == 3
    assert data.eval_origin == str(small_data / "sst2" / "validation.jsonl")


def test_examples_are_written_with_the_template_asked_for(small_data):
    data = load_task_data("sst2", small_data, num_train=1, num_dev=1)
    (plain,), (default,) = data.examples(data.train, "v1"), data.examples(data.train)
    assert plain.prompt.startswith("train ")
    assert default.prompt == f"{plain.prompt} It was"
    with pytest.raises(UsageError, match="has no template 'v9'"):
        data.examples(data.train, "v9")


def test_majority_counts_the_evaluation_rows(small_data):
    assert load_task_data("sst2", small_data, num_train=1, num_dev=1).majority == {"accuracy": pytest.approx(8 / 12)}


def test_small_split_is_used_up_with_a_log_line(small_data, caplog):
    with caplog.at_level(logging.WARNING):
        data = load_task_data("sst2", small_data, num_dev=20)
    assert (len(data.train), len(data.dev), len(data.evaluation)) == (10, 20, 12)
    assert "has 30 rows: using 10 for training and 20 for dev instead of 1000 and 20" in caplog.text


@pytest.mark.parametrize(("labels", "warned"), [((1,), True), ((0, 1), False)])
def test_rows_of_one_class_are_warned_of(tmp_path, caplog, labels, warned):
    (tmp_path / "sst2").mkdir()
    rows = [{"sentence": f"row {index} ", "label": labels[index % len(labels)]} for index in range(12)]
    for split in ("train", "validation"):
        (tmp_path / "sst2" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING):
        load_task_data("sst2", tmp_path, num_train=12, num_dev=0)
    message = "All 12 training rows have the same label, that of 'great': nothing is learned."
    assert (message in caplog.text) == warned


def test_zero_training_rows_may_be_asked_for_but_not_result(small_data):
    assert load_task_data("sst2", small_data, num_train=0, num_dev=0).train == ()
    with pytest.raises(UsageError, match=r"No training rows are left.* 30 rows and --num-dev is 500"):
        load_task_data("sst2", small_data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": -1}, "num_train is -1; it should be at least 0"),
        ({"num_dev": -5}, "num_dev is -5; it should be at least 0"),
        ({"num_eval": 0}, "num_eval is 0; it should be at least 1"),
        ({"num_train": 5, "num_dev": 5, "train_set_seed": -2}, "train_set_seed is -2"),
    ],
)
def test_bad_options_are_refused(small_data, options, message):
    with pytest.raises(UsageError, match=message):
        load_task_data("sst2", small_data, **options)


def test_real_sst2_rows(real_data_dir):
    data = load_task_data("sst2", real_data_dir)
    assert (len(data.train), len(data.dev), len(data.evaluation)) == (1000, 500, 872)
    assert data.majority == {"accuracy": pytest.approx(444 / 872)}
    assert data.evaluation[0].name == "sst2 validation row 372"
    assert all(example.prompt.endswith(" It was") for example in data.examples(data.train))
