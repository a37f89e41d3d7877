"""Load a causal language model and its tokenizer, with errors a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from foretune.adapters import peft_warnings_hidden
from foretune.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"


def resolve_device(device: str) -> torch.device:
    """Return the device to use.

    Raises:
        UsageError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("--device cuda: PyTorch finds no CUDA device; use cpu or auto.")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and available) else "cpu")


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """Return the dtype to load weights in; ``auto`` is float32 on a CPU and the checkpoint's own on a GPU."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.float32 if device.type == "cpu" else "auto"


def check_model_path(model: str) -> None:
    """Refuse a local path that holds no model, before anything else is done.

    Raises:
        UsageError: the path does not exist, or has no config.json.
    """
    path = Path(model)
    looks_local = path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or path.exists()
    if not looks_local:
        return
    if not path.is_dir():
        raise UsageError(f"--model {model}: there is no such folder.")
    if is_adapter(model):
        raise UsageError(
            f"--model {model} is an adapter; give a whole model: its base, or the two merged (peft's merge_and_unload)."
        )
    if not (path / "config.json").is_file():
        raise UsageError(f"--model {model}: the folder has no config.json, so it is not a saved model.")


def is_adapter(model: str) -> bool:
    """Whether a local folder holds an adapter of peft and no whole model."""
    return (Path(model) / _ADAPTER_CONFIG).is_file() and not (Path(model) / "config.json").is_file()


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not is_adapter(model):
        check_model_path(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--model {model}: cannot load its tokenizer: {_first_line(error)}") from error
    if tokenizer is None:
        raise UsageError(f"--model {model}: it has no tokenizer.")
    return tokenizer


def load_model(
    model: str,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a causal language model onto one device.

    Raises:
        UsageError: there is none of this name, it is no causal language model, or it cannot be read.
    """
    from transformers import AutoModelForCausalLM

    check_model_path(model)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--model {model}: cannot load it: {_first_line(error)}") from error
    return loaded.to(device)


def load_adapter(
    adapter: str, *, dtype: torch.dtype | str, device: torch.device, trust_remote_code: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter's folder with the base model it names, and its tokenizer (the base model's if it has none).

    Raises:
        UsageError: the folder cannot be read, or its base model is not there.
    """
    from peft import PeftConfig, PeftModel

    try:
        with peft_warnings_hidden():
            config = PeftConfig.from_pretrained(adapter)
            if not config.base_model_name_or_path:
                raise ValueError(f"{_ADAPTER_CONFIG} names no base model.")
            loading = {"revision": config.revision, "trust_remote_code": trust_remote_code}
            base = load_model(config.base_model_name_or_path, dtype=dtype, device=device, **loading)
            own = (Path(adapter) / _TOKENIZER_CONFIG).is_file()
            tokenizer = load_tokenizer(adapter if own else config.base_model_name_or_path, **loading)
            return PeftModel.from_pretrained(base, adapter).to(device), tokenizer
    except UsageError as error:
        raise UsageError(f"--model {adapter} is an adapter: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"--model {adapter}: cannot load this adapter: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
