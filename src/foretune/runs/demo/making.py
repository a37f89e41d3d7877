"""Make a demo: a folder with the pre-trained model, rows of our own language, and the settings of one ordinary run."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import as_file, files
from itertools import chain, count
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml

from foretune.errors import UsageError
from foretune.runs.demo.reviews import LABEL_WORDS, Part, draw_reviews

MODEL = files("foretune.runs.demo") / "model"
"""What `pretraining` made, a part of the package."""
NUM_TRAIN, NUM_DEV, NUM_TEST = 1_000, 500, 1_000
MOST_TOKENS = 48
"""Of a row, with its prompt."""
_METHOD = "mezo"
_SETTINGS: dict[str, Any] = {
    "method": _METHOD,
    "lr": 3e-4,
    "zo_eps": 1e-3,
    "steps": 400,
    "batch_size": 32,
    "num_train": NUM_TRAIN,
    "num_dev": NUM_DEV,
    "eval_steps": 100,
    "log_steps": 50,
    "device": "cpu",
}
"""The same for every seed."""


def free_folder(parent: Path) -> Path:
    """Return `demo` below a folder, or the first of `demo-2`, `demo-3`, ... that is not there yet."""
    names = chain(["demo"], (f"demo-{number}" for number in count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def make_demo(folder: Path, *, seed: int = 0) -> Path:
    """Write model, rows, task and settings, and return the file of the settings: `foretune train --config FILE`.

    The rows are a task of the user's own: `reviews.yaml` with `train.jsonl` and `test.jsonl`, drawn anew from `seed`,
    which is also the run's. No text is in two of training, test and pre-training rows.

    Raises:
        UsageError: the folder is not empty, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file; give a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--output {folder} is not empty; choose another folder.")
        with as_file(MODEL) as model:
            copytree(model, folder / "model")
        _write_rows(folder / "train.jsonl", "train", NUM_TRAIN + NUM_DEV, seed)
        _write_rows(folder / "test.jsonl", "test", NUM_TEST, seed)
        _write_yaml(folder / "reviews.yaml", _task())
        paths = {"model": folder / "model", "task": folder / "reviews.yaml", "output": folder / _METHOD}
        settings = {**{name: str(path) for name, path in paths.items()}, **_SETTINGS, "seed": seed}
        _write_yaml(folder / "demo.yaml", settings)
    except OSError as error:
        raise UsageError(f"--output {folder} cannot be written: {error.strerror}.") from error
    return folder / "demo.yaml"


def _task() -> dict[str, Any]:
    return {
        "data": "train.jsonl",
        "eval_data": "test.jsonl",
        "prompt": "{text} It was {label}",
        "label_words": dict(enumerate(LABEL_WORDS)),
    }


def _write_rows(path: Path, part: Part, number: int, seed: int) -> None:
    rows = (json.dumps(asdict(review)) + "\n" for review in draw_reviews(part, number, seed))
    path.write_text("".join(rows), encoding="utf-8")


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
