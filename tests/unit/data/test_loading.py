from __future__ import annotations

import json

import datasets
import pytest

from foretune.data.loading import load_split
from foretune.errors import UsageError
from foretune.tasks import get_task

ROWS = [{"sentence": f"row {number} ", "label": number % 2, "idx": number} for number in range(6)]
SST2 = get_task("sst2")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("FORETUNE_DATA", raising=False)


def write(folder, text, split="train"):
    (folder / "sst2").mkdir(exist_ok=True)
    path = folder / "sst2" / f"{split}.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_local_rows_in_file_order_with_blank_lines_skipped(tmp_path):
    path = write(tmp_path, "\n" + lines(ROWS) + "\n")
    split = load_split(SST2, "train", tmp_path)
    assert [split[index] for index in range(len(split))] == ROWS
    assert split.origin == str(path)


def test_unicode_line_separators_do_not_split_a_row(tmp_path):
    row = {"sentence": "one\u2028line\u0085only", "label": 0}
    write(tmp_path, json.dumps(row, ensure_ascii=False) + "\n")
    assert load_split(SST2, "train", tmp_path)[0] == row


def test_environment_variable_names_the_folder_and_the_argument_wins(tmp_path, monkeypatch):
    write(tmp_path, lines(ROWS))
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path))
    assert len(load_split(SST2, "train")) == 6
    with pytest.raises(UsageError, match=r"^--data-dir .*elsewhere is not a folder"):
        load_split(SST2, "train", tmp_path / "elsewhere")
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"^\$FORETUNE_DATA .*gone is not a folder"):
        load_split(SST2, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"train\.jsonl' has no rows"),
        ("\n\n", r"train\.jsonl' has no rows"),
        (lines(ROWS[:2]) + '{"sentence": \n', r"train\.jsonl', line 3: not valid JSON"),
        (lines(ROWS[:1]) + "[1, 2]\n", r"train\.jsonl', line 2: expected an object"),
        ('\n{"label": 1}\n', r"train\.jsonl', line 2: field 'sentence' is missing"),
        (lines([*ROWS, {"sentence": "x", "label": 5}]), r"train\.jsonl', line 7: field 'label' is 5;"),
        (b'{"sentence": "\xe9t\xe9", "label": 1}\n', r"train\.jsonl' is not UTF-8 text"),
    ],
)
def test_bad_file_is_one_clear_error(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        load_split(SST2, "train", tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_file_say_what_is_there(tmp_path):
    with pytest.raises(UsageError, match=r"has no folder 'sst2' for the task. It has no folders at all"):
        load_split(SST2, "train", tmp_path)
    (tmp_path / "sst-2").mkdir()
    with pytest.raises(UsageError, match=r"has no folder 'sst2' for the task. Did you mean: sst-2"):
        load_split(SST2, "train", tmp_path)
    write(tmp_path, lines(ROWS), split="validation")
    with pytest.raises(UsageError, match=r"train\.jsonl' does not exist; task 'sst2' needs its train rows there"):
        load_split(SST2, "train", tmp_path)


def test_hub_sources_are_tried_in_order(monkeypatch):
    asked = []

    def load_dataset(path, name, *, revision, split):
        asked.append((path, name, revision, split))
        if path == "nyu-mll/glue":
            raise ConnectionError("Couldn't reach it\nmore lines")
        return datasets.Dataset.from_list([*ROWS, {"sentence": "unlabelled", "label": -1, "idx": 6}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    split = load_split(SST2, "validation")
    assert asked == [("nyu-mll/glue", "sst2", None, "validation"), ("glue", "sst2", None, "validation")]
    assert (len(split), split[3]) == (7, ROWS[3])
    assert split.origin == "hub dataset glue (sst2), split validation"
    with pytest.raises(UsageError, match=r"^hub dataset glue \(sst2\), split validation, row 6: field 'label' is -1"):
        split[6]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no network"),
        FileNotFoundError("no such dataset"),
        ValueError("no such config"),
        RuntimeError("scripts are no longer supported"),
        datasets.exceptions.DatasetsError("broken"),
    ],
)
def test_hub_failure_names_every_source_and_the_way_out(monkeypatch, error):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UsageError) as caught:
        load_split(SST2, "train")
    message = str(caught.value)
    assert f"nyu-mll/glue (sst2): {error}; glue (sst2): {error}." in message
    assert "set --data-dir (or FORETUNE_DATA) to a folder with sst2/train.jsonl and sst2/validation.jsonl" in message
