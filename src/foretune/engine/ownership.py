"""Which module reads which trainable tensor, as far as a model's structure tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from foretune.types import Trainable


def is_called(module: nn.Module) -> bool:
    """Whether the module ever runs: ParameterList and the like only hold tensors.

    So does the output projection of nn.MultiheadAttention, which multiplies by its weight itself.
    """
    has_forward = getattr(module.forward, "__func__", None) is not nn.Module.forward
    return has_forward and not isinstance(module, NonDynamicallyQuantizableLinear)


def find_owners(model: nn.Module, trainables: Sequence[Trainable]) -> list[tuple[nn.Module, tuple[Trainable, ...]]]:
    """Pair each module that directly owns trainable tensors with these tensors.

    Tensors of a module that never runs belong to its nearest ancestor that does. A tied tensor is listed
    under each of its owners.
    """
    by_parameter = {id(trainable.parameter): trainable for trainable in trainables}
    owned: dict[nn.Module, dict[Trainable, None]] = {}
    seen: set[nn.Module] = set()

    def visit(module: nn.Module, nearest: nn.Module) -> None:
        if module in seen:
            return
        seen.add(module)
        owner = module if is_called(module) else nearest
        for parameter in module.parameters(recurse=False):
            if id(parameter) in by_parameter:
                owned.setdefault(owner, {})[by_parameter[id(parameter)]] = None
        for child in module.children():
            visit(child, owner)

    visit(model, model)
    return [(module, tuple(members)) for module, members in owned.items()]


def reads_rows(module: nn.Module) -> bool:
    """Whether the module's first argument lists exactly the rows of its weight that it reads."""
    return getattr(module.forward, "__func__", None) is nn.Embedding.forward


def rows_read(args: tuple[Any, ...], weight: Tensor) -> Tensor | None:
    """Return the rows that a module which `reads_rows` reads when it is called with these arguments; None for all.

    On a CPU each of them once. Elsewhere as often as it is read: to count the different ones, the host would have to
    wait for the device in each evaluation.
    """
    if not args:
        return None
    read = args[0]
    return (torch.unique(read) if read.device.type == "cpu" else read.reshape(-1)).to(weight.device, torch.int64)


def opaque_module(model: nn.Module) -> str | None:
    """Name a module whose inside Python hooks do not reach (compiled or scripted), if there is one."""
    for name, module in model.named_modules():
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or isinstance(module, torch.jit.ScriptModule):
            return f"'{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
    return None
