"""A short run for commands that run end to end."""

from __future__ import annotations

import pytest


@pytest.fixture
def train_words(tiny_model, rows_dir, tmp_path):
    """Arguments of a run of six steps; its folder is `tmp_path / "run"`."""
    words = f"train --model {tiny_model} --data-dir {rows_dir} --task sst2 --output {tmp_path / 'run'} --device cpu"
    words += " --steps 6 --eval-steps 3 --log-steps 2 --batch-size 4 --num-train 20 --num-dev 8 --num-eval 12 --lr 1e-3"
    return words.split()
