"""Files of weights are there and whole, or the one that is not is named."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from foretune.errors import UsageError
from foretune.runs.weight_files import check_adapter_weights, check_weights


@pytest.fixture
def folder(tmp_path):
    for name in ("model", "model-00001-of-00002", "model-00002-of-00002", "adapter_model"):
        save_file({name: torch.zeros(64)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_whole_files_pass_and_a_name_on_the_hub_is_not_looked_up(folder):
    check_weights(str(folder))
    check_adapter_weights(str(folder))
    check_weights("facebook/opt-125m")


def test_an_index_says_which_files_there_are(folder):
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("abc", [*shards, shards[0]], strict=True))})
    )
    (folder / "model.safetensors").write_bytes(b"not read then")
    check_weights(str(folder))
    os.truncate(folder / shards[1], 100)
    with pytest.raises(UsageError, match=f"{shards[1]} is cut short or damaged"):
        check_weights(str(folder))
    (folder / shards[0]).unlink()
    with pytest.raises(UsageError, match=f"{shards[0]} is missing, one of 2 files"):
        check_weights(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": []}'])
def test_an_index_that_is_none(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UsageError, match=r"model\.safetensors\.index\.json is no list of weights"):
        check_weights(str(folder))


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_file_that_was_cut(folder, size):
    file = folder / "model.safetensors"
    os.truncate(file, size if size >= 0 else file.stat().st_size + size)
    with pytest.raises(UsageError, match=r"model\.safetensors is cut short or damaged \(.+\)\. Copy"):
        check_weights(str(folder))


def test_a_pointer_of_git_lfs(folder):
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors only points to the weights: .*git lfs pull"):
        check_adapter_weights(str(folder))


def test_no_file_at_all(tmp_path):
    with pytest.raises(UsageError, match=r"no weights: no model\.safetensors"):
        check_weights(str(tmp_path))
    with pytest.raises(UsageError, match=r"no weights: no adapter_model\.safetensors"):
        check_adapter_weights(str(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    check_weights(str(tmp_path))
