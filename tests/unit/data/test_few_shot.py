"""k rows of each class, as published."""

from __future__ import annotations

import json
import logging
from collections import Counter

import pytest

from foretune.data.few_shot import DATA_SEEDS, draw_few_shot, draw_test, load_few_shot_data
from foretune.errors import UsageError
from foretune.tasks import get_task

# permutation(20) by seed, as in the published setting
GOLDEN = {
    13: [11, 12, 0, 1, 8, 5, 7, 15, 14, 13, 3, 17, 9, 4, 2, 6, 19, 10, 16, 18],
    42: [0, 17, 15, 1, 8, 5, 11, 3, 18, 16, 13, 2, 9, 19, 4, 12, 7, 10, 14, 6],
    100: [17, 19, 11, 18, 13, 6, 16, 1, 9, 14, 12, 5, 2, 4, 10, 0, 15, 7, 3, 8],
}


@pytest.mark.parametrize("seed", GOLDEN)
def test_rows_come_in_the_order_of_the_permutation_label_by_label(seed):
    labels = [index % 3 for index in range(20)]
    groups: dict[int, list[int]] = {}
    for index in GOLDEN[seed]:
        groups.setdefault(labels[index], []).append(index)
    train, dev = draw_few_shot(labels, 2, seed)
    assert train == [index for group in groups.values() for index in group[:2]]
    assert dev == [index for group in groups.values() for index in group[2:4]]


def test_one_label_gives_the_permutation_itself():
    assert draw_few_shot(["a"] * 20, 12, 13) == (GOLDEN[13][:12], GOLDEN[13][12:])


def test_published_seeds():
    assert DATA_SEEDS == (13, 21, 42, 87, 100)


def test_a_small_class_fills_training_rows_first():
    labels = ["rare"] * 5 + ["common"] * 50
    train, dev = draw_few_shot(labels, 4, 21)
    assert Counter(labels[index] for index in train) == {"rare": 4, "common": 4}
    assert Counter(labels[index] for index in dev) == {"rare": 1, "common": 4}
    assert not set(train) & set(dev)


def test_test_rows_are_drawn_only_where_there_are_too_many():
    assert draw_test(277) == list(range(277))
    assert draw_test(20, 12) == GOLDEN[42][:12]
    assert len(set(draw_test(2210))) == 1000


def test_rows_of_trec_with_a_class_that_is_too_small(real_data_dir, caplog):
    """At k = 512 the rarest class has no dev row, and says so."""
    with caplog.at_level(logging.WARNING, "foretune"):
        data = load_few_shot_data("trec", real_data_dir, k=512, seed=13)
    words = data.task.masked.label_words
    counts = {
        part: Counter(words[data.task.masked.class_of(row.row)] for row in getattr(data, part))
        for part in ("train", "dev")
    }
    assert counts["train"]["Human"] == counts["train"]["Description"] == 512
    assert 0 < counts["dev"]["Human"] < 512
    assert 0 < counts["train"]["Expression"] < 512
    assert counts["dev"]["Expression"] == 0
    assert "Expression has" in caplog.text
    assert len(data.evaluation) == 500
    assert data.evaluation[7].name == "trec test row 7"


@pytest.mark.parametrize("task", ["snli", "mnli"])
def test_sixteen_rows_of_each_class(real_data_dir, task):
    first, second = (load_few_shot_data(task, real_data_dir, k=16, seed=seed) for seed in DATA_SEEDS[:2])
    assert (len(first.train), len(first.dev), len(first.evaluation)) == (48, 48, 1000)
    assert set(Counter(row.row["label"] for row in first.train).values()) == {16}
    assert not {row.name for row in first.train} & {row.name for row in first.dev}
    assert {row.name for row in first.train} != {row.name for row in second.train}
    assert first.evaluation == second.evaluation


def test_rows_without_a_label_are_left_out_before_the_draw(tmp_path):
    rows = [{"premise": f"p{i}.", "hypothesis": "h", "label": i % 4 - 1} for i in range(24)]
    _write(tmp_path / "snli", train=rows, validation=rows[:8])
    data = load_few_shot_data("snli", tmp_path, k=3, seed=42)
    assert Counter(row.row["label"] for row in data.train) == {0: 3, 1: 3, 2: 3}
    assert data.num_left_out == 6 + 2
    assert len(data.evaluation) == 6


def test_no_training_rows_are_read_for_a_zero_shot_evaluation(tmp_path):
    _write(tmp_path / "snli", validation=[{"premise": "p.", "hypothesis": "h", "label": 0}])
    data = load_few_shot_data("snli", tmp_path, k=0, seed=42)
    assert (data.train, data.dev, len(data.evaluation)) == ((), (), 1)


def test_published_test_rows_are_preferred(tmp_path, caplog):
    from dataclasses import replace

    task = get_task("snli")
    task = replace(task, masked=replace(task.masked, test_split="test"))
    row = {"premise": "p.", "hypothesis": "h", "label": 0}
    _write(tmp_path / "snli", train=[row] * 4, validation=[row])
    with caplog.at_level(logging.WARNING, "foretune"):
        assert len(load_few_shot_data(task, tmp_path, k=1, seed=13).evaluation) == 1
    assert "no local test rows" in caplog.text
    _write(tmp_path / "snli", test=[row] * 2)
    assert len(load_few_shot_data(task, tmp_path, k=1, seed=13).evaluation) == 2


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("snli", {"k": -1}, "k is -1; it should be at least 0"),
        ("snli", {"k": 1, "num_eval": 0}, "num_eval is 0"),
        ("copa", {"k": 1}, "Task 'copa' has no prompt for masked language models"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, task, options, message):
    if task == "copa":
        from dataclasses import replace

        task = replace(get_task("snli"), name="copa", masked=None)
    with pytest.raises(UsageError, match=message):
        load_few_shot_data(task, tmp_path, seed=13, **options)


def _write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
