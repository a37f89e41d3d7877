"""The files of weights in a local folder: whether they are there and whole, by their headers, before they are read."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from foretune.errors import UsageError

_WHOLE = "model.safetensors"
_INDEX = f"{_WHOLE}.index.json"
_ADAPTER = "adapter_model.safetensors"
_POINTER = b"version https://git-lfs.github.com"
"""How a file begins that stands for another one, which Git LFS has not fetched."""


def check_weights(model: str) -> None:
    """Refuse a folder whose weights are missing, or not whole; of the hub nothing is asked.

    Weights in other formats than safetensors are not looked at.

    Raises:
        UsageError: naming the file.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    if (folder / _INDEX).is_file():
        files = [folder / name for name in _shards(model, folder / _INDEX)]
    elif (folder / _WHOLE).is_file():
        files = [folder / _WHOLE]
    elif any(folder.glob("*.bin")):
        return
    else:
        raise UsageError(f"--model {model}: the folder has no weights: no {_WHOLE}. Copy or download them, too.")
    for file in files:
        _check_file(model, file)


def check_adapter_weights(adapter: str) -> None:
    """Refuse an adapter's folder whose weights are missing, or not whole.

    Raises:
        UsageError: naming the file.
    """
    if not any(Path(adapter).glob("adapter_model.*")):
        raise UsageError(f"--model {adapter}: the adapter has no weights: no {_ADAPTER}. Copy or download them, too.")
    if (file := Path(adapter) / _ADAPTER).is_file():
        _check_file(adapter, file)


def _shards(model: str, index: Path) -> list[str]:
    """Return the names of the files that an index lists."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--model {model}: {index.name} is no list of weights: {error!r}. Copy it again.") from error
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UsageError(
            f"--model {model}: {missing[0]} is missing, one of {len(names)} files of weights that {index.name} lists. "
            "Copy or download it, too."
        )
    return names


def _check_file(model: str, file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(_POINTER)) == _POINTER:
            raise UsageError(
                f"--model {model}: {file.name} only points to the weights: fetch them with 'git lfs pull'."
            )
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise UsageError(
            f"--model {model}: {file.name} is cut short or damaged ({error}). Copy or download it again."
        ) from error
