"""The default engine: each layer reads a perturbed copy from scratch; the weights are never modified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from foretune.engine.base import AbstractEngine, EngineName, Measured, Perturbation, Tangent
from foretune.engine.forward_mode import attach_tangent, drop_tangent
from foretune.engine.ownership import find_owners, reads_rows, rows_read
from foretune.engine.scratch import ScratchStack
from foretune.types import Trainable


class Frame(NamedTuple):
    """A module that is running, and the parameters that were substituted for it with their true data."""

    module: nn.Module
    opened: list[tuple[nn.Parameter, Tensor]]


class Substitution:
    """A perturbed copy stands in for the true data."""

    def __init__(self, perturbation: Perturbation) -> None:
        self._perturbation = perturbation
        self.moves = perturbation.moves

    def open(self, trainable: Trainable, out: Tensor, rows: Tensor | None) -> None:
        """Write the copy to `out` and put it in place."""
        self._perturbation.write(trainable, out=out, base=trainable.parameter.data, rows=rows)
        trainable.parameter.data = out

    def close(self, parameter: nn.Parameter, true_data: Tensor) -> None:
        """Put the true data back."""
        parameter.data = true_data


class _Differentiation:
    """The parameter carries a tangent beside its true data."""

    def __init__(self, tangent: Tangent) -> None:
        self._tangent = tangent
        self.moves = tangent.moves

    def open(self, trainable: Trainable, out: Tensor, rows: Tensor | None) -> None:
        self._tangent.write_tangent(trainable, out=out, rows=rows)
        attach_tangent(trainable.parameter, out)

    def close(self, parameter: nn.Parameter, true_data: Tensor) -> None:
        drop_tangent(parameter)


class Layerwise(AbstractEngine):
    """Swaps a perturbed copy in just before a module runs and the true weight back after it.

    For a slope it gives the parameter a tangent in the same manner.

    Memory: the tensors of one module at a time (and of the modules it is nested in), twice for a slope. An embedding
    perturbs only the rows that are looked up. A tensor that is already open in an enclosing module is left as it is.
    """

    name: ClassVar[EngineName] = "layerwise"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        super().__init__(model, trainables)
        self.owners = find_owners(model, trainables)
        self._scratch = ScratchStack()
        self._way: Substitution | _Differentiation | None = None
        self._frames: list[Frame] = []
        self._open: set[int] = set()

    @property
    def scratch_bytes(self) -> int:
        """Memory that the engine keeps for perturbed copies."""
        return self._scratch.num_bytes

    @property
    def scratch_buffers(self) -> list[Tensor]:
        """The memory of perturbed copies, a buffer a device."""
        return self._scratch.buffers

    def open_parameters(self) -> list[nn.Parameter]:
        """The parameters that are substituted right now."""
        return [parameter for frame in self._frames for parameter, _ in frame.opened]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the owners; the model carries none outside of a session."""
        handles = []
        try:
            for module, members in self.owners:
                before = partial(self._before, members=members, by_rows=reads_rows(module))
                handles.append(module.register_forward_pre_hook(before))
                handles.append(module.register_forward_hook(self._after, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        return self._opening(evaluate, Substitution(perturbation))

    def _along(self, evaluate: Callable[[], tuple[float, float]], tangent: Tangent) -> tuple[float, float]:
        return self._opening(evaluate, _Differentiation(tangent))

    def _opening(self, evaluate: Callable[[], Measured], way: Substitution | _Differentiation) -> Measured:
        """Call `evaluate`, in which every module finds its own tensors opened."""
        self._way = way
        try:
            return evaluate()
        finally:
            self._way = None
            # normally nothing is open any more, but Ctrl-C does not reach the hooks that close
            for frame in reversed(self._frames):
                for parameter, true_data in reversed(frame.opened):
                    way.close(parameter, true_data)
            self._frames.clear()
            self._open.clear()
            self._scratch.clear()

    def _before(self, module: nn.Module, args: tuple[Any, ...], *, members: Sequence[Trainable], by_rows: bool) -> None:
        """Open the tensors of a module that is about to run."""
        way = self._way
        if way is None:
            return
        frame = Frame(module, [])
        self._frames.append(frame)
        for trainable in members:
            parameter = trainable.parameter
            if id(parameter) in self._open or not way.moves(trainable):
                continue
            true_data = parameter.data
            rows = rows_read(args, parameter) if by_rows else None
            out = self._scratch.push(true_data)
            # recorded before anything changes, so that an interrupt anywhere from here on can be cleaned up
            frame.opened.append((parameter, true_data))
            self._open.add(id(parameter))
            way.open(trainable, out, rows)

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Close what `_before` opened, also if the module raised."""
        # a pre-hook that raised before ours ran leaves this module without a frame, on top of its caller's
        if not self._frames or self._frames[-1].module is not module:
            return
        self._close_frame()

    def _close_frame(self) -> None:
        """Close what was opened for the module that ran last."""
        assert self._way is not None
        opened = self._frames[-1].opened
        while opened:
            parameter, true_data = opened[-1]
            self._way.close(parameter, true_data)
            self._open.discard(id(parameter))
            self._scratch.pop(true_data.device)
            opened.pop()
        self._frames.pop()
