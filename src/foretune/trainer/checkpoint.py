"""Optimizer, scheduler and random state on disk: safetensors and JSON, never pickle."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME, PushToHubMixin

from foretune.errors import UsageError

OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_STATE = "optimizer.json"
SCHEDULER_STATE = "scheduler.json"
RANDOM_STATE = "random_state.json"
TRAINER_STATE = "trainer_state.json"

_SEPARATOR = "/"  # between a parameter's name and the name of its state; parameter names use dots


def save_optimizer(state: dict[str, Any], folder: Path) -> None:
    """Write an optimizer's `state_dict` as tensors and JSON."""
    tensors = {
        f"{name}{_SEPARATOR}{key}": tensor.contiguous()
        for name, saved in state["state"].items()
        for key, tensor in saved["tensors"].items()
    }
    counters = {
        **state,
        "state": {name: {k: v for k, v in saved.items() if k != "tensors"} for name, saved in state["state"].items()},
    }
    save_file(tensors, folder / OPTIMIZER_TENSORS)
    write_json(folder / OPTIMIZER_STATE, counters)


def load_optimizer(folder: Path) -> dict[str, Any]:
    """Read what `save_optimizer` wrote."""
    state = json.loads((folder / OPTIMIZER_STATE).read_text())
    for saved in state["state"].values():
        saved["tensors"] = {}
    for full_name, tensor in load_file(folder / OPTIMIZER_TENSORS).items():
        name, _, key = full_name.rpartition(_SEPARATOR)
        state["state"][name]["tensors"][key] = tensor
    return state


def save_random_state(folder: Path) -> None:
    """Write the state of Python's, NumPy's and PyTorch's global generators (data collators may use them)."""
    kind, keys, *rest = np.random.get_state()
    write_json(
        folder / RANDOM_STATE,
        {
            "python": random.getstate(),
            "numpy": [kind, keys.tolist(), *rest],
            "torch": base64.b64encode(bytes(torch.get_rng_state().tolist())).decode(),
            "cuda": [base64.b64encode(bytes(state.tolist())).decode() for state in torch.cuda.get_rng_state_all()]
            if torch.cuda.is_available()
            else [],
        },
    )


def load_random_state(folder: Path) -> None:
    """Restore what `save_random_state` wrote; a folder without it (an imported checkpoint) changes nothing."""
    path = folder / RANDOM_STATE
    if not path.exists():
        return
    state = json.loads(path.read_text())
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_byte_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([_byte_tensor(text) for text in state["cuda"]])


def _byte_tensor(text: str) -> torch.Tensor:
    return torch.tensor(list(base64.b64decode(text)), dtype=torch.uint8)


def write_json(path: Path, value: Any) -> None:
    """Write JSON; floats keep every bit.

    Raises:
        UsageError: the value holds something that JSON cannot.
    """
    try:
        text = json.dumps(value, indent=2)
    except TypeError as error:
        raise UsageError(f"Cannot save {path.name}: {error}. Custom schedulers must have a JSON state.") from error
    path.write_text(text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def save_model(model: nn.Module, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Write a model as safetensors: `save_pretrained` where it has one, its tensors otherwise."""
    if isinstance(model, PreTrainedModel | PushToHubMixin):
        model.save_pretrained(folder, state_dict=state_dict)
    else:
        save_file(model.state_dict() if state_dict is None else state_dict, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})


def whole_checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """List `(step, folder)` of the checkpoints that were written to the end, oldest first.

    The Trainer writes `trainer_state.json` last: a folder without it, or with a torn one, was interrupted.
    """
    found = []
    for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            state = TrainerState.load_from_json(str(folder / TRAINER_STATE))
        except (OSError, ValueError):
            continue
        found.append((state.global_step, folder))
    return sorted(found)
