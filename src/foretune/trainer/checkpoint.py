"""What a checkpoint folder holds: model, optimizer, schedule and place in the run, without pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME, PushToHubMixin

from foretune.errors import CheckpointError, ForetuneError, UsageError, in_one_line
from foretune.trainer.model_card import CARD_NAME

OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_STATE = "optimizer.json"
SCHEDULER_STATE = "scheduler.json"
TRAINER_STATE = "trainer_state.json"
BEGINNING = "beginning"
"""Subfolder for the checkpoint of a run's beginning, which no limit of their number removes."""

_SEPARATOR = "/"  # between a parameter's name and the name of its state; parameter names use dots


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run stood when a checkpoint was written.

    Attributes:
        epoch_ended: Whether it was written after the end of an epoch was announced (else after a step).
    """

    file_name: ClassVar[str]

    epoch_ended: bool

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint folder."""
        write_json(folder / self.file_name, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is damaged.
        """
        with reading(folder):
            return cls(**read_json(folder / cls.file_name))


@dataclass(frozen=True, kw_only=True)
class JournalPlace(Place):
    """The place of a run with a journal.

    Attributes:
        num_records: Records of the journal that precede the checkpoint.
        is_sound: Whether the run showed no sign of diverging.
    """

    file_name: ClassVar[str] = "journal.json"

    num_records: int
    is_sound: bool = True


@dataclass(frozen=True, kw_only=True)
class LogPlace(Place):
    """The place of a run without a journal.

    Attributes:
        num_bytes: Length of metrics.jsonl.
        unlogged: Losses of the steps that are in none of its lines yet.
        losses: Of all steps, for what watches them.
    """

    file_name: ClassVar[str] = "log.json"

    num_bytes: int
    unlogged: list[float]
    losses: list[float] = field(default_factory=list)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Name a checkpoint that cannot be read, and say what to do.

    Raises:
        CheckpointError: then.
    """
    try:
        yield
    except ForetuneError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is damaged ({in_one_line(error)}): remove this folder, and the run resumes without it."
        ) from error


@contextmanager
def writing(path: Path, then: str = "go on with --resume") -> Iterator[None]:
    """Name what cannot be written, and say what to do, for example where the disk is full.

    Args:
        path: A folder or a file.
        then: What to do when there is room.
    Raises:
        CheckpointError: then.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise CheckpointError(f"{path} cannot be written ({reason}): make room, then {then}.") from error


def save_optimizer(state: dict[str, Any], folder: Path) -> None:
    """Write an optimizer's `state_dict` as tensors and JSON."""
    tensors: dict[str, torch.Tensor] = {}
    counters = {}
    for name, saved in state["state"].items():
        tensors |= {f"{name}{_SEPARATOR}{key}": value.contiguous() for key, value in saved["tensors"].items()}
        counters[name] = {key: value for key, value in saved.items() if key != "tensors"}
    save_file(tensors, folder / OPTIMIZER_TENSORS)
    write_json(folder / OPTIMIZER_STATE, {**state, "state": counters})


def load_optimizer(folder: Path) -> dict[str, Any]:
    """Read what `save_optimizer` wrote."""
    state = read_json(folder / OPTIMIZER_STATE)
    for saved in state["state"].values():
        saved["tensors"] = {}
    for full_name, tensor in load_file(folder / OPTIMIZER_TENSORS).items():
        name, _, key = full_name.rpartition(_SEPARATOR)
        state["state"][name]["tensors"][key] = tensor
    return state


def write_json(path: Path, value: Any) -> None:
    """Write JSON, the whole file or nothing; floats keep every bit.

    Raises:
        UsageError: the value holds something that JSON cannot.
    """
    try:
        text = json.dumps(value, indent=2)
    except TypeError as error:
        raise UsageError(f"Cannot save {path.name}: {error}. Custom schedulers must have a JSON state.") from error
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def save_model(model: nn.Module, folder: Path) -> None:
    """Write a model as safetensors: `save_pretrained` where it has one, its tensors otherwise."""
    if isinstance(model, PreTrainedModel | PushToHubMixin):
        with _card_kept(folder / CARD_NAME):
            model.save_pretrained(folder)
    else:
        # copies, because safetensors refuses tensors that share memory, as tied ones do
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})


@contextmanager
def _card_kept(card: Path) -> Iterator[None]:
    """Leave a folder's model card as it is: peft would add to it, or write one of empty headings."""
    before = card.read_bytes() if card.exists() else None
    yield
    if before is not None:
        card.write_bytes(before)
    else:
        card.unlink(missing_ok=True)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Read the adapter that `save_model` wrote, into the tensors there are.

    `model.load_adapter` would make a half-precision adapter float32.
    """
    name = model.active_adapter
    folder = folder if name == "default" else folder / name
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():  # peft would look for it on the hub
        raise FileNotFoundError(f"there is no {SAFETENSORS_WEIGHTS_NAME}")
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"), adapter_name=name)


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """List all checkpoint folders, whole or not, oldest first."""
    found = output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return sorted((folder for folder in found if folder.name.rpartition("-")[2].isdecimal()), key=step_of)


def step_of(folder: Path) -> int:
    """Return the number of steps behind a checkpoint folder, by its name."""
    return int(folder.name.rpartition("-")[2])


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint was written to the end: the Trainer's own state comes last, and is not torn."""
    try:
        read_json(folder / TRAINER_STATE)
    except (OSError, ValueError):
        return False
    return True


def is_resumable(folder: Path) -> bool:
    """Whether a run can go on from a checkpoint: it is whole, and not of `save_only_model`."""
    return is_whole(folder) and any((folder / place.file_name).exists() for place in (JournalPlace, LogPlace))


def remove(folder: Path) -> None:
    """Delete a checkpoint; killed in between, it leaves an interrupted one."""
    (folder / TRAINER_STATE).unlink(missing_ok=True)
    shutil.rmtree(folder)
