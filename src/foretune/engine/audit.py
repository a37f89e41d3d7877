"""One watched forward that tells whether the layerwise engine sees every use of every trainable tensor."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foretune.engine.base import Perturbation
from foretune.engine.layerwise import Layerwise
from foretune.parameters import MemorySpan, is_plain, memory_span
from foretune.types import LossClosure, Trainable

MAX_CALLS = 2
"""A module called more often than this per evaluation would have its weights regenerated each time."""

_READS_NOTHING = {
    *("detach", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like"),
    "_has_compatible_shallow_copy_type",  # asked by an assignment to `.data`
    *("new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full"),
}
"""Operators that alias a tensor, or take it for its shape, dtype and device."""


class _TrueMemory:
    """Where the true data of the trainable tensors lies, and which of it was read."""

    def __init__(self, trainables: Sequence[Trainable]) -> None:
        self._spans: dict[int, list[tuple[MemorySpan, str]]] = {}
        for trainable in trainables:
            span = memory_span(trainable.parameter.data)
            self._spans.setdefault(span.storage, []).append((span, trainable.name))
        self._paused = False
        self.read: set[str] = set()

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Reads inside the block are the engine's own."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def note(self, values: Sequence[object]) -> None:
        """Look for true data among the arguments of a call."""
        if self._paused:
            return
        with self.unwatched():
            for value in values:
                if isinstance(value, Tensor) and is_plain(value):
                    span = memory_span(value)
                    near = self._spans.get(span.storage, ())
                    self.read.update(name for other, name in near if span.overlaps(other))


class _Copy(Perturbation):
    """A perturbation that copies, so that every trainable tensor is substituted."""

    def __init__(self, memory: _TrueMemory) -> None:
        self._memory = memory

    def moves(self, trainable: Trainable) -> bool:
        return True

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        with self._memory.unwatched():
            if rows is None:
                out.copy_(base)
            else:  # the rest of the scratch may never have been written to, and takes no memory on a CPU
                out.index_copy_(0, rows, base.index_select(0, rows))


class _WatchOperators(TorchDispatchMode):
    """Sees every operator, in scripted functions and through views and aliases of a weight too."""

    supports_higher_order_operators = True  # flex attention is one; their arguments are looked at

    def __init__(self, memory: _TrueMemory) -> None:
        super().__init__()
        self._memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "overloadpacket", func).__name__ not in _READS_NOTHING:
            self._memory.note(tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


@contextmanager
def _watch_addresses(memory: _TrueMemory) -> Iterator[None]:
    """See parameters that are handed to a kernel outside of torch (Triton's, for one) by their address.

    A TorchFunctionMode would tell as well, but torch's own modules take other paths where one is active: what
    is watched would not be what is run.
    """

    def data_ptr(parameter: Tensor) -> int:
        memory.note([parameter])
        return Tensor.data_ptr(parameter)

    nn.Parameter.data_ptr = data_ptr  # type: ignore[method-assign]
    try:
        yield
    finally:
        del nn.Parameter.data_ptr


def _runs_compiled(frame: FrameType | None, wrapper: CodeType) -> bool:
    """Whether a function that torch.compile has wrapped is being called."""
    while frame is not None:
        if frame.f_code is wrapper:
            return True
        frame = frame.f_back
    return False


def find_obstacle(engine: Layerwise, closure: LossClosure, *, num_micro_batches: int = 1) -> str | None:
    """Run `closure` once, watched, and say why `engine` cannot serve it; None if it can.

    Found are: a tensor whose true data is read, outside the module that owns it or through an alias; a module
    that returns its weight (or a view of it) instead of a new tensor; a module called by a compiled function,
    which keeps the hooks that were there when it was traced, or none; a module called more than twice per
    evaluation and micro-batch. To be called within a session of the engine.
    """
    memory = _TrueMemory(engine.trainables)
    module_names = {module: name or type(module).__name__ for name, module in engine.model.named_modules()}
    calls: Counter[nn.Module] = Counter()
    returned: set[str] = set()
    compiled: set[str] = set()
    compile_wrapper = torch.compile(_runs_compiled).__code__

    def look_at_output(module: nn.Module, args: object, output: object) -> None:
        calls[module] += 1
        if _runs_compiled(sys._getframe(), compile_wrapper):
            compiled.add(module_names[module])
        with memory.unwatched():
            lent = [memory_span(parameter) for parameter in engine.open_parameters()]
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor) and is_plain(leaf):
                    span = memory_span(leaf)
                    if any(span.overlaps(other) for other in lent):
                        returned.add(module_names[module])

    def watched() -> Tensor | float:
        # what is compiled runs as plain Python here: operators inside would not be seen
        with torch.compiler.set_stance("force_eager"), _watch_addresses(memory), _WatchOperators(memory):
            return closure()

    # in front of the engine's own hooks, which put the true data back
    handles = [module.register_forward_hook(look_at_output, prepend=True) for module, _ in engine.owners]
    try:
        engine.loss(watched, _Copy(memory))
    finally:
        for handle in handles:
            handle.remove()

    if compiled:
        return f"module {_some(compiled)} is run by a compiled function"
    if returned:
        return f"module {_some(returned)} returns its own weight"
    if memory.read:
        return f"{_some(memory.read)} is read outside the module that owns it"
    busiest, number = max(calls.items(), key=lambda item: item[1], default=(None, 0))
    if busiest is not None and number > MAX_CALLS * num_micro_batches:
        return f"module '{module_names[busiest]}' is called {number} times per evaluation"
    return None


def _some(names: set[str]) -> str:
    first, *others = sorted(names)
    return f"'{first}'" + (f" (and {len(others)} more)" if others else "")
