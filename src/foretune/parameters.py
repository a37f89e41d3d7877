"""The trainable tensors of a model: canonical names, noise streams, and how each is treated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from foretune.errors import IncompatibleError, UsageError
from foretune.noise import stream_id
from foretune.types import Trainable

SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_WRAPPER_COMPONENTS = {"_orig_mod", "_fsdp_wrapped_module"}


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside data-parallel wrappers."""
    while isinstance(model, DataParallel | DistributedDataParallel):
        model = model.module
    return model


def canonical_name(name: str) -> str:
    """Strip the components that compilation and sharding wrappers put into a parameter's name."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_COMPONENTS)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return ``(m, n)`` if low-rank methods treat this shape as a matrix, None for a vector (methods.md 1.1)."""
    if len(shape) < 2 or sum(size > 1 for size in shape) < 2 or shape[0] < 2:
        return None
    rest = 1
    for size in shape[1:]:
        rest *= size
    return shape[0], rest


def collect_trainables(model: nn.Module) -> tuple[Trainable, ...]:
    """List the tensors of `model` with ``requires_grad``, once each, ordered by canonical name.

    Tied tensors (one `nn.Parameter` under several names) appear under the smallest of their names.

    Raises:
        UsageError: the model has no trainable tensor.
        IncompatibleError: a tensor has a dtype without noise, lies on the meta device (offloaded or not
            loaded), shares memory with another one, or two names hash to the same noise stream.
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
            if own_name == "bias" or "norm" in type(module).__name__.lower():
                undecayed.add(key)
    if not names:
        raise UsageError("The model has no trainable tensor: requires_grad is False on every parameter.")

    trainables = []
    for key in sorted(names, key=names.__getitem__):
        name, parameter = names[key], parameters[key]
        _check_tensor(name, parameter)
        trainables.append(
            Trainable(
                name=name,
                parameter=parameter,
                stream=stream_id(name),
                matrix_shape=matrix_shape(tuple(parameter.shape)),
                decays=parameter.dim() >= 2 and key not in undecayed,
            )
        )
    _check_distinct(trainables)
    return tuple(trainables)


def _check_tensor(name: str, parameter: Tensor) -> None:
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


def _check_distinct(trainables: list[Trainable]) -> None:
    by_stream: dict[int, str] = {}
    by_memory: dict[int, str] = {}
    for trainable in trainables:
        name, parameter = trainable.name, trainable.parameter
        if (other := by_stream.setdefault(trainable.stream, name)) != name:
            raise IncompatibleError(f"Parameters '{other}' and '{name}' hash to one noise stream; rename one of them.")
        if parameter.numel() and (other := by_memory.setdefault(parameter.data_ptr(), name)) != name:
            raise IncompatibleError(
                f"Parameters '{other}' and '{name}' share memory but are different parameters: each would be "
                "updated twice. Tie them by assigning one nn.Parameter to both modules."
            )
