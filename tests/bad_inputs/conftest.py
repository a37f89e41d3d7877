"""The folder that every row of the table finds: models, rows, and runs of them."""

from __future__ import annotations

import gc
import re
import shlex
import shutil

import pytest
from transformers import TrainerCallback

import masked_models
from bad_inputs.table import REST
from foretune.cli.train import parse
from foretune.runs.train import train


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, tiny_model, rows_dir):
    """Folder with models, rows of sst2 and runs: `run` and `lora` finished; `half` and `adam` died at step 4 of 6."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(rows_dir, folder / "data")
    reviews = [f"the film {index} is,{index % 2}\n" for index in range(20)]
    (folder / "reviews.csv").write_text("".join(["text,label\n", *reviews]))
    masked_models.roberta().save_pretrained(folder / "masked")
    masked_models.roberta_tokenizer().save_pretrained(folder / "masked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in ("--output run", "--output lora --tuning lora"):
            train(parse(shlex.split(f"{REST['train']} {words}")))
        for words in ("--output half", "--output adam --method adam"):
            with pytest.raises(KeyboardInterrupt):
                train(parse(shlex.split(f"{REST['train']} {words}")), callbacks=[_Dies()])
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_objects_to_look_at(workshop):
    """Leave out of garbage collection what was there before: the Trainer collects at every run, half of its time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def place(request, workshop, tmp_path, monkeypatch):
    """A copy of what a row needs of the workshop, to run its command in; no network, no ledger of elsewhere."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for variable in ("FORETUNE_DATA", "FORETUNE_LEDGER", "FORETUNE_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    needed, told = {"model", "data", "runs.sqlite"}, ""
    if hasattr(request.node, "callspec"):
        row = request.node.callspec.params["row"]
        needed |= {"run"} if row.resumes else set()
        told = " ".join((row.command, str(row.largest_file), *row.files, *row.before, *row.then))
    for entry in workshop.iterdir():
        if entry.name in needed or re.search(rf"\b{re.escape(entry.name)}\b", told):
            (shutil.copytree if entry.is_dir() else shutil.copy)(entry, folder / entry.name)
    monkeypatch.chdir(folder)
    return folder


class _Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt
