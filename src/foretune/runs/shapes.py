"""Models known by their shape alone: random weights for measurements of memory and time, which no value changes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from foretune.errors import UsageError, near_misses
from foretune.objectives import usable_masked_length
from foretune.runs.loading import load_config, model_kind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from foretune.runs.config import ProbedObjective


@cache
def shapes() -> dict[str, dict[str, Any]]:
    """Return the known shapes by name: a model type, and its settings."""
    return yaml.safe_load((files("foretune.runs") / "shapes.yaml").read_text())


def is_shape(model: str) -> bool:
    """Whether `model` is the name of a shape; a folder of that name is meant by ``./NAME``."""
    return model in shapes()


def load_shape(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the configuration of a shape, of a local folder or of a model on the hub, without its weights.

    Raises:
        UsageError: it is none of these (near misses of shapes suggested), or the configuration cannot be read.
    """
    from transformers import AutoConfig

    if is_shape(model):
        settings = dict(shapes()[model])
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        config.name_or_path = model
        return config
    if "/" not in model and not Path(model).exists():  # on the hub, models have an owner
        raise UsageError(f"--model {model}: no such shape or folder.{near_misses(model, shapes())} Or give OWNER/NAME.")
    return load_config(model, revision=revision, trust_remote_code=trust_remote_code)


def shape_dtype(config: PreTrainedConfig) -> torch.dtype:
    """Return the dtype that a checkpoint says it is in; bfloat16 where it says nothing, as shapes do."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.bfloat16


def random_model(
    config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> PreTrainedModel:
    """Return a language model with its usual random weights; the global generators stay as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), device:
        torch.manual_seed(seed)
        return model_class(config).from_config(config, dtype=dtype).eval()


def model_class(config: PreTrainedConfig) -> Any:
    """Return the class of transformers that makes a causal or a masked language model, whichever this is.

    Raises:
        UsageError: it is neither.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    return AutoModelForMaskedLM if model_kind(config) == "masked" else AutoModelForCausalLM


def check_objective(config: PreTrainedConfig, objective: ProbedObjective) -> None:
    """Refuse the loss of all tokens for a model that predicts one behind a mask.

    Raises:
        UsageError: naming the option.
    """
    if model_kind(config) == "masked" and objective != "classification":
        raise UsageError(
            f"--objective {objective}: {config.name_or_path} is a masked language model, whose loss is that of words "
            "at a mask. Use --objective classification."
        )


def check_length(
    config: PreTrainedConfig, length: int, *, num_virtual_tokens: int = 0, option: str = "--sequence-length"
) -> None:
    """Refuse sequences that the model has no positions for.

    Raises:
        UsageError: naming the option, the length and the positions.
    """
    num_positions = _num_positions(config)
    if num_positions is not None and length + num_virtual_tokens > num_positions:
        virtual = f", {num_virtual_tokens} of which virtual tokens take" if num_virtual_tokens else ""
        raise UsageError(
            f"{option} {length}: {config.name_or_path} has {num_positions} positions{virtual}; "
            f"use at most {num_positions - num_virtual_tokens}."
        )


def _num_positions(config: PreTrainedConfig) -> int | None:
    """Return how many tokens there are positions for; None if any number."""
    num_positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if num_positions is None or model_kind(config) != "masked":
        return num_positions
    with torch.device("meta"):  # some leave the first positions unused, which their modules tell
        return usable_masked_length(model_class(config).from_config(config), num_positions)
