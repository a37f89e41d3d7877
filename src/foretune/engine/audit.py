"""One watched forward that tells whether the layerwise engine sees every use of every trainable tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from foretune.engine.layerwise import Layerwise
from foretune.types import LossClosure, Trainable

MAX_CALLS = 2
"""A module called more often than this per evaluation would have its weights regenerated each time."""

_METADATA = frozenset(
    "shape dtype device ndim requires_grad layout is_cuda is_cpu is_meta is_sparse is_quantized is_mkldnn is_leaf "
    "grad grad_fn itemsize nbytes size dim ndimension numel nelement element_size stride storage_offset "
    "is_contiguous is_floating_point is_complex get_device __len__ __hash__ is_inference is_pinned _version".split()
)


class _NoShift:
    """A perturbation that copies, so that every trainable tensor is substituted."""

    def moves(self, trainable: Trainable) -> bool:
        return True

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        out.copy_(base)


class _Watch(TorchFunctionMode):
    """Collects the trainable tensors that any torch function reads while they are not substituted."""

    def __init__(self, engine: Layerwise) -> None:
        super().__init__()
        self._engine = engine
        self._names = {id(trainable.parameter): trainable.name for trainable in engine.trainables}
        self.bypassed: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _function_name(func) not in _METADATA:
            for value in _tensors((args, kwargs)):
                name = self._names.get(id(value))
                if name is not None and not self._engine.is_open(value):
                    self.bypassed.add(name)
        return func(*args, **(kwargs or {}))


def _function_name(func: Any) -> str:
    # property getters arrive as the `__get__` of a descriptor that carries the property's name
    name = getattr(func, "__name__", "")
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def find_obstacle(engine: Layerwise, closure: LossClosure, *, num_micro_batches: int = 1) -> str | None:
    """Run `closure` once, watched, and say why `engine` cannot serve it; None if it can.

    Found are: a tensor read outside the module that owns it, a module called more than twice per evaluation
    and micro-batch, a module that returns its weight (or a view of it) instead of a new tensor.
    """
    calls: Counter[nn.Module] = Counter()
    returned: set[str] = set()
    module_names = {module: name or type(module).__name__ for name, module in engine.model.named_modules()}

    def count(module: nn.Module) -> None:
        calls[module] += 1

    def check_output(module: nn.Module, output: object) -> None:
        pointers = {buffer.untyped_storage().data_ptr() for buffer in engine.open_buffers()}
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.numel() and leaf.untyped_storage().data_ptr() in pointers:
                returned.add(module_names[module])

    watch = _Watch(engine)
    engine.on_open, engine.on_close = count, check_output

    def watched() -> Tensor | float:
        with watch:
            return closure()

    try:
        engine.loss(watched, _NoShift())
    finally:
        engine.on_open = engine.on_close = None

    if watch.bypassed:
        return f"{_some(watch.bypassed)} is read outside the module that owns it"
    if returned:
        return f"module {_some(returned)} returns its own weight"
    busiest, number = max(calls.items(), key=lambda item: item[1], default=(None, 0))
    if busiest is not None and number > MAX_CALLS * num_micro_batches:
        return f"module {module_names[busiest]} is called {number} times per evaluation"
    return None


def _some(names: set[str]) -> str:
    first, *others = sorted(names)
    return f"'{first}'" + (f" (and {len(others)} more)" if others else "")
