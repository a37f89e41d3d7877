"""The folder of a demo: a task of the user's own, a model, and options of an ordinary run."""

from __future__ import annotations

import json

import pytest

from foretune.cli.train import parse
from foretune.errors import UsageError
from foretune.runs.demo import making
from foretune.runs.demo.making import free_folder, make_demo
from foretune.runs.loading import load_tokenizer
from foretune.runs.rows import load_rows
from foretune.runs.task import task_of


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo") / "new" / "demo", seed=3)


def test_the_settings_are_options_of_train(settings):
    config = parse(["--config", str(settings)])
    config.check()
    folder = settings.parent
    assert (config.model, config.output, config.seed) == (str(folder / "model"), str(folder / "mezo"), 3)
    task = task_of(config)
    rows = load_rows(config, task, "causal", num_train=config.num_train, num_dev=config.num_dev)
    parts = [rows.train, rows.dev, rows.evaluation]
    assert list(map(len, parts)) == [making.NUM_TRAIN, making.NUM_DEV, making.NUM_TEST]
    texts = [row.row["text"] for part in parts for row in part]
    assert len(set(texts)) == len(texts)
    tokenizer = load_tokenizer(config.model)
    longest = max(len(tokenizer(f"{text} It was great").input_ids) for text in texts)
    assert longest <= making.MOST_TOKENS


def test_a_seed_draws_other_rows(settings, tmp_path):
    other = make_demo(tmp_path / "demo", seed=4).parent
    drawn = [
        {json.loads(line)["text"] for line in (folder / "test.jsonl").read_text().splitlines()}
        for folder in (settings.parent, other)
    ]
    assert len(drawn[0] & drawn[1]) < 0.1 * making.NUM_TEST
    model = [(folder / "model" / "model.safetensors").read_bytes() for folder in (settings.parent, other)]
    assert model[0] == model[1]


def test_the_first_free_name_is_taken(tmp_path):
    for name in ("demo", "demo-2", "demo-3"):
        assert free_folder(tmp_path) == tmp_path / name
        (tmp_path / name).mkdir()


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    for taken, words in (
        (tmp_path, "is not empty"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "Not"),
    ):
        with pytest.raises(UsageError, match=f"--output {taken}.*{words}"):
            make_demo(taken)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
