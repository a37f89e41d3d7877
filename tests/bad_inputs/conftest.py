"""The folder that every row of the table finds: models, rows, and runs of them."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, tiny_model, rows_dir):
    """Folder with a tiny model and rows of sst2; commands are run in a copy, by relative paths."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_model, folder / "model")
    shutil.copytree(rows_dir, folder / "data")
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
