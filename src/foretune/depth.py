"""How deep in a model its tensors are read first: before, within or behind which of its layers.

Names tell the layers (`schedules/module_paths.py`) but not what runs before and what behind them: a final norm may be
declared in front of the layers, as OPT's is. One watched forward tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from foretune.engine import eval_mode
from foretune.engine.ownership import find_owners
from foretune.errors import IncompatibleError
from foretune.parameters import canonical_name, unwrap
from foretune.schedules.module_paths import layer_paths
from foretune.types import Trainable

BEFORE_LAYERS = -1
"""Depth of what is read before the first layer runs."""

_NUM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Depths:
    """Where a model reads its trainable tensors.

    Attributes:
        num_layers: Layers that ran.
        of: For each tensor the index of the layer it belongs to, in the order in which layers run. Outside of the
            layers, the number of layers that had run when it was first read: `BEFORE_LAYERS` if none had begun,
            `num_layers` if it was not read at all. So a tied head counts as the embedding that it is.
    """

    num_layers: int
    of: Mapping[Trainable, int]


class _Watch:
    """Sees layers begin and end, and modules outside of them read their tensors."""

    def __init__(self) -> None:
        self.begun: dict[tuple[str, ...], int] = {}
        self.first_read: dict[Trainable, int] = {}
        self._ended: set[tuple[str, ...]] = set()

    def begin(self, path: tuple[str, ...], module: nn.Module, args: object) -> None:
        self.begun.setdefault(path, len(self.begun))

    def end(self, path: tuple[str, ...], module: nn.Module, args: object, output: object) -> None:
        self._ended.add(path)

    def read(self, members: Sequence[Trainable], module: nn.Module, args: object) -> None:
        depth = len(self._ended) if self.begun else BEFORE_LAYERS
        for trainable in members:
            self.first_read.setdefault(trainable, depth)


@torch.no_grad()
def find_depths(model: nn.Module, trainables: Sequence[Trainable], run: Callable[[], object] | None = None) -> Depths:
    """Run a model once, without dropout, and see in which order it reads its tensors.

    Args:
        model: The model.
        trainables: Its trainable tensors.
        run: Calls the model; by default on a few tokens, as language models of transformers are called.
    Raises:
        IncompatibleError: there is no `run`, and the model cannot be called on tokens alone.
    """
    inner = unwrap(model)
    names = [canonical_name(name) for name, _ in inner.named_parameters(remove_duplicate=False)]
    layer_of = dict(zip(names, layer_paths(names), strict=True))
    modules = {tuple(canonical_name(name).split(".")): module for name, module in inner.named_modules()}
    watch, handles = _Watch(), []
    try:
        for path in dict.fromkeys(filter(None, layer_of.values())):
            handles.append(modules[path].register_forward_pre_hook(partial(watch.begin, path)))
            handles.append(modules[path].register_forward_hook(partial(watch.end, path)))
        for module, members in find_owners(inner, trainables):
            handles.append(module.register_forward_pre_hook(partial(watch.read, members)))
        # what is compiled runs as plain Python here: hooks inside would not be seen
        with eval_mode(inner), torch.compiler.set_stance("force_eager"):
            _run_on_tokens(inner) if run is None else run()
    finally:
        for handle in handles:
            handle.remove()
    num_layers = len(watch.begun)
    outside = {trainable: watch.first_read.get(trainable, num_layers) for trainable in trainables}
    return Depths(num_layers, {t: watch.begun.get(layer_of[t.name], depth) for t, depth in outside.items()})


def _run_on_tokens(model: nn.Module) -> None:
    device = next(model.parameters()).device
    try:
        model(input_ids=torch.arange(_NUM_TOKENS, device=device).view(1, -1))
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise IncompatibleError(
            f"{type(model).__name__} cannot be run on tokens alone ({error}), so the order of its layers is not known: "
            "give `run`, a function that calls it once."
        ) from error
