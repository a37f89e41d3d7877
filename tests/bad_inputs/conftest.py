"""The folder that every row of the table finds: models, rows, and runs of them."""

from __future__ import annotations

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


@pytest.fixture
def place(workshop, tmp_path, monkeypatch):
    """A copy of the workshop in which a command is run; there is no network, and no ledger of elsewhere."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for variable in ("FORETUNE_DATA", "FORETUNE_LEDGER", "FORETUNE_STORAGE"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "place"
    shutil.copytree(workshop, folder)
    monkeypatch.chdir(folder)
    return folder


class _Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt
