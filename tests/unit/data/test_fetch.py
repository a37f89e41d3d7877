from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import datasets
import pytest

from foretune.data import fetch
from foretune.data.fetch import FetchedFile, check_task, fetch_task, hub_splits, read_source
from foretune.data.loading import load_split
from foretune.errors import UsageError
from foretune.tasks import HubSource, get_task
from foretune.tasks.masked import judged_sentence

ROWS = {
    "train": [{"sentence": f"row {number} \u2028é", "label": number % 2, "idx": number} for number in range(5)],
    "validation": [{"sentence": f"other {number} ", "label": 1, "idx": number} for number in range(3)],
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("FORETUNE_DATA", raising=False)


@pytest.fixture(params=["jsonl", "parquet"])
def task(request, tmp_path):
    """sst2 with a folder in the form of a hub dataset as its only source, after one that is not there."""
    hub = tmp_path / "hub"
    hub.mkdir()
    for split, rows in ROWS.items():
        if request.param == "parquet":
            datasets.Dataset.from_list(rows).to_parquet(hub / f"{split}.parquet")
        else:
            (hub / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return replace(get_task("sst2"), sources=(HubSource(str(tmp_path / "gone")), HubSource(str(hub))))


def local_files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the hub was asked")

    return lambda: monkeypatch.setattr(fetch, "load_hub_split", refuse)


def test_rows_come_back_through_data_dir_with_their_hashes(task, tmp_path):
    fetched, downloaded = fetch_task(task, tmp_path / "data")
    folder = tmp_path / "data" / "sst2"
    assert downloaded == ("train", "validation")
    assert local_files(folder) == ["source.json", "train.jsonl", "validation.jsonl"]
    for split, rows in ROWS.items():
        loaded = load_split(task, split, tmp_path / "data")
        assert [loaded[index] for index in range(len(loaded))] == rows
        content = (folder / f"{split}.jsonl").read_bytes()
        assert fetched.files[split] == FetchedFile(split, len(rows), hashlib.sha256(content).hexdigest())
    assert fetched == read_source(folder) == check_task(folder)
    assert (fetched.task, fetched.dataset, fetched.commit) == ("sst2", str(tmp_path / "hub"), None)
    assert fetched.datasets_version == datasets.__version__


def test_what_is_there_is_not_fetched_again(task, tmp_path, no_hub):
    fetched, _ = fetch_task(task, tmp_path / "data")
    no_hub()
    assert fetch_task(task, tmp_path / "data") == (fetched, ())


def test_interrupted_download_goes_on(task, tmp_path, monkeypatch):
    """Killed while the second file is written: the first stays, and only the second is loaded again."""
    loaded = []

    def load(source, split, commit=None):
        loaded.append(split)
        rows = datasets.load_dataset(source.dataset, split=split)
        return rows if len(loaded) != 2 else Breaking(rows)

    monkeypatch.setattr(fetch, "load_hub_split", load)
    with pytest.raises(KeyboardInterrupt):
        fetch_task(task, tmp_path / "data")
    folder = tmp_path / "data" / "sst2"
    assert local_files(folder) == ["source.json", "train.jsonl", "validation.jsonl.part"]
    fetched, downloaded = fetch_task(task, tmp_path / "data")
    assert downloaded == ("validation",)
    assert loaded == ["train", "validation", "validation"]
    assert local_files(folder) == ["source.json", "train.jsonl", "validation.jsonl"]
    assert check_task(folder) == fetched


class Breaking:
    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return self._rows[index]


def test_killed_between_listing_and_rename(task, tmp_path):
    fetched, _ = fetch_task(task, tmp_path / "data")
    (tmp_path / "data" / "sst2" / "train.jsonl").unlink()
    with pytest.raises(UsageError, match=r"train.jsonl' is missing; fetch task 'sst2' again"):
        check_task(tmp_path / "data" / "sst2")
    assert fetch_task(task, tmp_path / "data") == (fetched, ("train",))


def test_changed_and_foreign_files_are_never_overwritten(task, tmp_path, no_hub):
    folder = tmp_path / "data" / "sst2"
    fetch_task(task, tmp_path / "data")
    no_hub()
    with (folder / "train.jsonl").open("a") as file:
        file.write("\n")
    before = (folder / "train.jsonl").read_bytes()
    for refused in (lambda: fetch_task(task, tmp_path / "data"), lambda: check_task(folder)):
        with pytest.raises(UsageError, match=r"train.jsonl' has changed since it was fetched: its SHA-256 is"):
            refused()
    (folder / "source.json").unlink()
    with pytest.raises(UsageError, match=r"train.jsonl' is there and was not fetched; move it away"):
        fetch_task(task, tmp_path / "data")
    assert (folder / "train.jsonl").read_bytes() == before
    (folder / "source.json").write_text('{"task": "sst2"}')
    with pytest.raises(UsageError, match=r"source.json' cannot be read as the record of a download"):
        fetch_task(task, tmp_path / "data")


def test_rest_comes_from_the_source_and_commit_of_the_first_files(task, tmp_path, monkeypatch):
    """Both sources work now; the first files came from the second, at a commit that the hub named."""
    commit = "c" * 40
    asked = []

    def load(source, split, commit=None):
        asked.append((source.dataset, split, commit))
        return ROWS[split]

    monkeypatch.setattr(fetch, "_commit", lambda source: commit)
    monkeypatch.setattr(fetch, "load_hub_split", load)
    hub = task.sources[1].dataset
    fetched, _ = fetch_task(replace(task, sources=task.sources[1:]), tmp_path / "data")
    assert fetched.commit == commit
    (tmp_path / "data" / "sst2" / "validation.jsonl").unlink()
    monkeypatch.setattr(fetch, "_commit", lambda source: "d" * 40)
    assert fetch_task(task, tmp_path / "data")[0].commit == commit
    assert asked == [(hub, "train", commit), (hub, "validation", commit), (hub, "validation", commit)]
    (tmp_path / "data" / "sst2" / "validation.jsonl").unlink()
    with pytest.raises(UsageError, match=r"was fetched from .*hub, which is no source of task 'sst2' any more"):
        fetch_task(replace(task, sources=task.sources[:1]), tmp_path / "data")


def test_failure_names_every_source(task, tmp_path):
    lost = replace(task, sources=(task.sources[0], HubSource("no/such-set", "part")))
    with pytest.raises(UsageError) as caught:
        fetch_task(lost, tmp_path / "data")
    message = str(caught.value)
    assert message.startswith("Could not load the train and validation rows of task 'sst2' from the hub. Tried ")
    assert f"{tmp_path / 'gone'}: " in message
    assert "no/such-set (part): " in message
    assert not (tmp_path / "data").exists()


def test_rows_of_another_form_are_refused_by_field(task, tmp_path):
    with pytest.raises(UsageError, match=r"^Hub dataset .*hub, split train, row 0: field 'premise' is missing"):
        fetch_task(replace(get_task("rte"), sources=task.sources), tmp_path / "data")
    assert not (tmp_path / "data" / "rte" / "train.jsonl").exists()


def test_splits_are_those_the_hub_has():
    assert hub_splits(get_task("rte")) == ("train", "validation")
    assert hub_splits(get_task("dolly")) == ("train",)
    masked = judged_sentence("sentence", " It was", ("terrible", "great"), test_split="test")
    assert hub_splits(replace(get_task("sst2"), masked=masked)) == ("train", "validation", "test")


def test_splits_have_their_own_names_on_the_hub(tmp_path):
    hub = tmp_path / "hub"
    hub.mkdir()
    for split in ("train", "test"):
        rows = ROWS["train"] if split == "train" else ROWS["validation"]
        (hub / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = replace(get_task("sst2"), sources=(HubSource(str(hub), splits={"validation": "test"}),))
    fetched, _ = fetch_task(task, tmp_path / "data")
    assert fetched.files["validation"].hub_split == "test"
    assert load_split(task, "validation", tmp_path / "data")[0] == ROWS["validation"][0]
