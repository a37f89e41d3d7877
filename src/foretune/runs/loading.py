"""Load a language model and its tokenizer, with errors a user can act on."""

from __future__ import annotations

import logging
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from foretune.adapters import peft_warnings_hidden
from foretune.errors import IncompatibleError, UsageError
from foretune.hub import is_local
from foretune.runs.weight_files import check_adapter_weights, check_weights
from foretune.trainer.publishing import FINAL_NAME

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ModelKind = Literal["causal", "masked"]
"""What a language model predicts: the next token, or one behind a mask."""

_EXAMPLES: dict[ModelKind, str] = {"causal": "facebook/opt-1.3b", "masked": "roberta-large"}
_MODEL_CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_FILES = ["adapter_model.*", "*.json", "*.txt", "*.model"]
"""What is downloaded of an adapter's repository: its weights, and a tokenizer."""
_TOKENIZER_CONFIG = "tokenizer_config.json"
_OFFLOADING = ("balanced", "balanced_low_0", "sequential", "disk", "meta")
"""Values of transformers' `device_map` with which weights are spread over devices, or are not in memory."""


def resolve_device(device: str) -> torch.device:
    """Return the device to use: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: it is none of these, it would offload weights, or PyTorch finds no such GPU.
    """
    check_device(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type == "cuda" and not (found.index or 0) < count:
        raise UsageError(f"--device {device}: PyTorch finds {count or 'no'} CUDA devices; use cpu or auto.")
    return found


def check_device(device: str) -> None:
    """Refuse what names no device, whether it is in this machine or not.

    Raises:
        UsageError: it is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:N``, or would offload weights.
    """
    if device in _OFFLOADING:
        raise UsageError(
            f"--device {device}: there is no engine yet for weights that are spread over devices or offloaded; "
            "the model must fit on one. Use auto, cpu, cuda or cuda:N."
        )
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}.")


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
    if not is_local(model):
        return
    if not path.is_dir():
        found = "this is a file; give the folder it is in" if path.exists() else "there is no such folder"
        raise UsageError(f"--model {model}: {found}.")
    if is_adapter(model):
        raise UsageError(
            f"--model {model} is an adapter; give a whole model: its base, or the two merged (peft's merge_and_unload)."
        )
    if not (path / _MODEL_CONFIG).is_file():
        hint = f" Its {path / FINAL_NAME} is one." if holds_model(path / FINAL_NAME) else ""
        raise UsageError(f"--model {model}: the folder has no {_MODEL_CONFIG}, so it is not a saved model.{hint}")


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a saved model or an adapter of peft."""
    return any((folder / name).is_file() for name in (_MODEL_CONFIG, _ADAPTER_CONFIG))


def is_adapter(model: str) -> bool:
    """Whether a local folder holds an adapter of peft and no whole model."""
    return (Path(model) / _ADAPTER_CONFIG).is_file() and not (Path(model) / _MODEL_CONFIG).is_file()


def local_adapter(model: str, *, revision: str | None = None) -> str:
    """Return the folder of an adapter that is on the hub, downloaded; any other model's name as it is.

    Raises:
        UsageError: it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download
    from transformers.utils.hub import has_file

    if is_local(model):
        return model
    with _explained(model, "cannot load it"):
        if has_file(model, _MODEL_CONFIG, revision) or not has_file(model, _ADAPTER_CONFIG, revision):
            return model
        return snapshot_download(model, revision=revision, allow_patterns=_ADAPTER_FILES, ignore_patterns="*/*")


def load_config(model: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Load a model's configuration, which says what kind of model it is before its weights are read.

    Raises:
        UsageError: there is no model of this name, its configuration cannot be read, or it is a local folder and a
            revision is given, which would have no effect.
    """
    from transformers import AutoConfig

    check_model_path(model)
    if revision is not None and is_local(model):
        raise UsageError(
            f"--revision {revision}: --model {model} is a folder here, which has no revisions. Leave it out."
        )
    with _explained(model, "cannot load it"):
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)


def model_kind(config: PreTrainedConfig) -> ModelKind:
    """Tell what kind of language model a configuration describes.

    By the class that was saved, else by the classes that the repository's own code offers, else by those that
    transformers has for its model type; where it has both, a decoder is causal and an encoder masked.

    Raises:
        UsageError: an encoder-decoder, or no language model at all.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    saved = set(config.architectures or ())
    described = f"--model {config.name_or_path} ({', '.join(sorted(saved)) or config.model_type})"
    if config.is_encoder_decoder:
        raise UsageError(
            f"{described} is an encoder-decoder; tasks are written for causal and for masked language models. "
            f"Give one of those, such as {_EXAMPLES['causal']}."
        )
    mappings = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    own_code = getattr(config, "auto_map", None) or {}
    for causal, masked in (
        (not saved.isdisjoint(mappings[0].values()), not saved.isdisjoint(mappings[1].values())),
        ("AutoModelForCausalLM" in own_code, "AutoModelForMaskedLM" in own_code),
        (config.model_type in mappings[0], config.model_type in mappings[1]),
    ):
        if causal and masked:
            return "causal" if getattr(config, "is_decoder", False) else "masked"
        if causal or masked:
            return "causal" if causal else "masked"
    raise UsageError(f"{described} is no language model: it has no head that predicts words, causal or masked.")


def load_tokenizer(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model.

    Padding token and padding side do not matter, batches are padded by position; BOS and EOS are looked at where
    text is encoded.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    if not is_adapter(model):
        check_model_path(model)
    with _explained(model, "cannot load its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
    # without files, transformers makes an empty tokenizer of the model's type
    if tokenizer is None or set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise UsageError(f"--model {model}: it has no tokenizer; put its files (tokenizer.json and others) beside it.")
    return tokenizer


def load_model(
    model: str,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    kind: ModelKind = "causal",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a language model of one kind onto one device.

    Raises:
        UsageError: there is none of this name, it is of another kind, it cannot be read, or weights are missing.
        IncompatibleError: its weights are quantized.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
    check_kind(config, kind)
    if (quantization := getattr(config, "quantization_config", None)) is not None:
        raise IncompatibleError(
            f"--model {model}: its weights are quantized ({_quantization_method(quantization)}), and there is no "
            "engine yet that perturbs such weights. Give the checkpoint that it was made from."
        )
    check_weights(model)
    with _explained(model, "cannot load it"):
        loaded, report = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}[kind].from_pretrained(
            model,
            config=config,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # they are named below
            output_loading_info=True,
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise UsageError(
            f"--model {model}: '{name}' has shape {list(found)} in the weights and {list(expected)} by "
            f"{_MODEL_CONFIG}, so one of the two is of another model."
        )
    if missing := sorted(report["missing_keys"]):
        raise UsageError(
            f"--model {model}: it lacks {len(missing)} weights of {type(loaded).__name__}, such as '{missing[0]}', "
            "which would be random. Give a checkpoint with its language-model head."
        )
    # heads of other tasks are left out on purpose, layers are not
    if unused := sorted(name for name in report["unexpected_keys"] if re.search(r"\.\d+\.", name)):
        logger.warning(
            "--model %s: %d weights of layers are not used, such as '%s'; is its %s of another model?",
            model, len(unused), unused[0], _MODEL_CONFIG,
        )  # fmt: skip
    return loaded.to(device)


def check_kind(config: PreTrainedConfig, kind: ModelKind) -> None:
    """Refuse a model of another kind than is needed.

    Raises:
        UsageError: it is of the other kind, or of none.
    """
    if (found := model_kind(config)) != kind:
        raise UsageError(
            f"--model {config.name_or_path} is a {found} language model ({', '.join(config.architectures or ())}); "
            f"this needs a {kind} one, such as {_EXAMPLES[kind]}."
        )


def load_adapter(
    adapter: str, *, dtype: torch.dtype | str, device: torch.device, trust_remote_code: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter's folder with the base model it names, and its tokenizer (the base model's if it has none).

    Raises:
        UsageError: the folder cannot be read, or its base model is not there.
        IncompatibleError: the base model's weights are quantized.
    """
    from peft import PeftModel

    base_name, revision = _adapter_base(adapter)
    check_adapter_weights(adapter)
    loading: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _named_as_adapter(adapter):
        kind = model_kind(load_config(base_name, **loading))
        base = load_model(base_name, dtype=dtype, device=device, kind=kind, **loading)
        own = (Path(adapter) / _TOKENIZER_CONFIG).is_file()
        tokenizer = load_tokenizer(adapter if own else base_name, **loading)
    with peft_warnings_hidden(), _explained(adapter, "cannot load this adapter"):
        return PeftModel.from_pretrained(base, adapter).to(device), tokenizer


def adapter_kind(adapter: str, *, trust_remote_code: bool = False) -> ModelKind:
    """Tell what kind of language model an adapter is for.

    Raises:
        UsageError: the folder cannot be read, or its base model is not there.
    """
    base_name, revision = _adapter_base(adapter)
    with _named_as_adapter(adapter):
        return model_kind(load_config(base_name, revision=revision, trust_remote_code=trust_remote_code))


def _adapter_base(adapter: str) -> tuple[str, str | None]:
    """Return the base model that an adapter's folder names, and its revision."""
    from peft import PeftConfig

    with peft_warnings_hidden(), _explained(adapter, "cannot load this adapter"):
        config = PeftConfig.from_pretrained(adapter)
    if not config.base_model_name_or_path:
        raise UsageError(f"--model {adapter}: cannot load this adapter: {_ADAPTER_CONFIG} names no base model.")
    return config.base_model_name_or_path, config.revision


@contextmanager
def _named_as_adapter(adapter: str) -> Iterator[None]:
    """Let errors about a base model name the adapter that was given."""
    try:
        yield
    except (UsageError, IncompatibleError) as error:
        raise type(error)(f"--model {adapter} is an adapter: {error}") from error


@contextmanager
def _explained(model: str, failure: str) -> Iterator[None]:
    """Turn what transformers, peft and safetensors raise about `model` into one line."""
    try:
        yield
    except UnpicklingError as error:
        raise UsageError(
            f"--model {model}: {failure}: its pickled weights are damaged, or are not weights alone. Give a checkpoint "
            "in safetensors."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, StrictDataclassError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"--model {model}: {failure} without running code that its repository ships. Read that code, and "
                "give --trust-remote-code if you trust it."
            ) from error
        name = type(error).__name__
        text = f"{name} {error}" if isinstance(error, KeyError) else str(error).strip() or name
        where = "" if Path(model).exists() else "there is no such folder here; from the hub: "
        reason = textwrap.shorten(text.partition("\n\n")[0], 400, placeholder=" ...")
        raise UsageError(f"--model {model}: {where}{failure}: {reason}") from error


def _quantization_method(quantization: Any) -> str:
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    return str(getattr(method, "value", method))
