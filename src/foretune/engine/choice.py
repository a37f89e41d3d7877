"""The rule that picks an engine: by what the model and the closure do, never by timing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from foretune.engine.audit import find_obstacle
from foretune.engine.base import AbstractEngine, EngineName
from foretune.engine.in_place import InPlace
from foretune.engine.layerwise import Layerwise
from foretune.engine.ownership import opaque_module
from foretune.engine.paired import Paired
from foretune.engine.roots import find_roots
from foretune.errors import IncompatibleError
from foretune.types import LossClosure, Trainable

ENGINES: tuple[EngineName, ...] = ("auto", "layerwise", "in_place", "paired")

logger = logging.getLogger(__name__)


def choose_engine(
    name: EngineName, model: nn.Module, trainables: Sequence[Trainable], closure: LossClosure
) -> AbstractEngine:
    """Return the engine for this model and closure.

    ``auto`` takes layerwise, never paired, unless the model is compiled or scripted, or one watched forward (the audit)
    finds an obstacle; then in_place, and a warning says why.

    Args:
        name: ``auto``, or the engine to use whatever the rule says.
        closure: Called once by the audit, unless `name` is ``in_place``, and four times more for ``paired``. If it
            evaluates several micro-batches it says so by an attribute ``num_micro_batches``.
    Raises:
        IncompatibleError: ``layerwise`` or ``paired`` was asked for and cannot serve.
    """
    if name == "in_place":
        return InPlace(model, trainables)
    opaque = opaque_module(model)
    if opaque is not None:
        obstacle = f"{opaque} is compiled or scripted, and runs without its hooks"
    else:
        engine = Paired(model, trainables) if name == "paired" else Layerwise(model, trainables)
        with engine.session():
            obstacle = find_obstacle(engine, closure, num_micro_batches=getattr(closure, "num_micro_batches", 1))
        if obstacle is None and isinstance(engine, Paired):
            obstacle = find_roots(engine, closure)
        if obstacle is None:
            return engine
    if name != "auto":
        others = "'auto'" if name == "paired" else "'auto' or 'in_place'"
        raise IncompatibleError(f"Engine '{name}' cannot serve this model: {obstacle}. Use {others}.")
    logger.warning("Using the in_place engine (one more copy of the trainable tensors): %s.", obstacle)
    return InPlace(model, trainables)
