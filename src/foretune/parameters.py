"""The trainable tensors of a model: canonical names, noise streams, and how each is treated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from foretune.errors import IncompatibleError, UsageError
from foretune.noise import stream_id
from foretune.types import Trainable

SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_WRAPPER_COMPONENTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside data-parallel and compilation wrappers."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def canonical_name(name: str) -> str:
    """Strip the components that compilation and sharding wrappers put into a parameter's name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_COMPONENTS)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return ``(m, n)`` if low-rank methods treat this shape as a matrix, None for a vector."""
    if len(shape) < 2 or sum(size > 1 for size in shape) < 2 or shape[0] < 2:
        return None
    rest = 1
    for size in shape[1:]:
        rest *= size
    return shape[0], rest


def is_adapter(name: str) -> bool:
    """Whether a canonical name is one of those that peft gives to the tensors of LoRA, prefixes and prompts."""
    components = name.split(".")
    return "prompt_encoder" in components or any(component.startswith("lora_") for component in components)


def prefix_views(model: nn.Module) -> dict[int, int]:
    """Return how many matrices peft's prefix tensors hold, by id: a key and a value of each layer, side by side.

    The columns of a prefix tensor are layer by layer, first the key, then the value, ``token_dim`` of each. With
    ``prefix_projection`` the tensor is a table that a network reads, and one matrix.
    """
    views = {}
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        for adapter, config in configs.items() if isinstance(configs, dict) else ():
            if config.peft_type != "PREFIX_TUNING" or config.prefix_projection:
                continue
            tensor = module.get_parameter(f"prompt_encoder.{adapter}.embedding.weight")
            num_tokens, num_columns = tensor.shape
            if matrix_shape((num_tokens, config.token_dim)) is not None:
                views[id(tensor)] = num_columns // config.token_dim
    return views


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is dense strided memory of its own (not sharded, quantized, sparse or meta)."""
    overrides = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    return not overrides and tensor.layout == torch.strided and not tensor.is_meta


class MemorySpan(NamedTuple):
    """Where a tensor lies: its storage's address, and there its first byte and the one behind its last."""

    storage: int
    start: int
    stop: int

    def overlaps(self, other: MemorySpan) -> bool:
        """Whether both may have a byte in common (strided tensors may also be interleaved)."""
        return self.storage == other.storage and self.start < other.stop and other.start < self.stop


def memory_span(tensor: Tensor) -> MemorySpan:
    """Return where a plain tensor lies; start and stop are equal if it has no elements."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    stop = start + (last + 1) * tensor.element_size() if tensor.numel() else start
    return MemorySpan(tensor.untyped_storage().data_ptr(), start, stop)


def collect_trainables(model: nn.Module, *, shapes_only: bool = False) -> tuple[Trainable, ...]:
    """List the tensors of `model` with ``requires_grad``, once each, ordered by canonical name.

    Tied tensors (one `nn.Parameter` under several names) appear under the smallest of their names.

    Args:
        model: Its parameters with ``requires_grad`` are listed.
        shapes_only: Take tensors without memory (meta device) too: for predictions, not for training.
    Raises:
        UsageError: the model has no trainable tensor.
        IncompatibleError: a tensor has a dtype without noise, has no memory of its own (meta device, lazy,
            sharded, quantized), shares it with another parameter, or two names hash to one noise stream.
    """
    model = unwrap(model)
    names: dict[int, str] = {}
    parameters: dict[int, nn.Parameter] = {}
    undecayed: set[int] = set()
    for module_name, module in model.named_modules(remove_duplicate=False):
        for own_name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if not parameter.requires_grad:
                continue
            name = canonical_name(f"{module_name}.{own_name}" if module_name else own_name)
            key = id(parameter)
            names[key] = min(names.get(key, name), name)
            parameters[key] = parameter
            if "bias" in own_name or "norm" in type(module).__name__.lower():
                undecayed.add(key)
    if not names:
        raise UsageError("The model has no trainable tensor: requires_grad is False on every parameter.")

    views = prefix_views(model)
    trainables = []
    for key in sorted(names, key=names.__getitem__):
        name, parameter = names[key], parameters[key]
        if not shapes_only:
            _check_tensor(name, parameter)
        trainables.append(
            Trainable(
                name=name,
                parameter=parameter,
                stream=stream_id(name),
                matrix_shape=matrix_shape(tuple(parameter.shape)),
                decays=parameter.dim() >= 2 and key not in undecayed,
                num_views=views.get(key, 1),
                is_adapter=is_adapter(name),
            )
        )
    _check_streams(trainables)
    if not shapes_only:
        _check_memory(model, trainables)
    return tuple(trainables)


def _check_tensor(name: str, parameter: Tensor) -> None:
    if is_lazy(parameter):
        raise IncompatibleError(f"Parameter '{name}' has no shape yet (a lazy module): run the model once before that.")
    if parameter.is_meta:
        raise IncompatibleError(
            f"Parameter '{name}' is on the meta device (offloaded, or never loaded): there are no weights to "
            "perturb. Load the model without offloading (device_map=None or one device)."
        )
    if parameter.dtype not in SUPPORTED_DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in SUPPORTED_DTYPES)
        raise IncompatibleError(
            f"Parameter '{name}' has dtype {parameter.dtype}; trainable tensors may be {known}. "
            "Freeze it (requires_grad_(False)) or load the model in one of these."
        )
    if not is_plain(parameter):
        raise IncompatibleError(
            f"Parameter '{name}' is a {type(parameter).__name__} of layout {parameter.layout}; trainable "
            "tensors must be plain and dense. Freeze it, or load the model neither sharded nor quantized."
        )


def _check_streams(trainables: Sequence[Trainable]) -> None:
    by_stream: dict[int, str] = {}
    for trainable in trainables:
        if (other := by_stream.setdefault(trainable.stream, trainable.name)) != trainable.name:
            raise IncompatibleError(
                f"Parameters '{other}' and '{trainable.name}' hash to one noise stream; rename one of them."
            )


def _check_memory(model: nn.Module, trainables: Sequence[Trainable]) -> None:
    """Refuse a trainable tensor that lies in the memory of another parameter, frozen ones included."""
    names = {id(trainable.parameter): trainable.name for trainable in trainables}
    spans = sorted(
        (memory_span(parameter), id(parameter) in names, names.get(id(parameter), canonical_name(name)))
        for name, parameter in model.named_parameters()
        if is_plain(parameter) and not is_lazy(parameter) and parameter.numel()
    )
    # by address: what begins before the furthest end so far shares memory with the tensor that ends there
    furthest: dict[bool, tuple[MemorySpan, str]] = {}
    for span, is_trainable, name in spans:
        for other_is_trainable, (other_span, other) in furthest.items():
            if (is_trainable or other_is_trainable) and span.overlaps(other_span):
                raise IncompatibleError(
                    f"Parameters '{other}' and '{name}' share memory but are different parameters: a step "
                    "would move one with the other. Tie them by assigning one nn.Parameter to both modules."
                )
        previous = furthest.get(is_trainable)
        if previous is None or (span.storage, span.stop) > (previous[0].storage, previous[0].stop):
            furthest[is_trainable] = span, name
