"""How a perturbed loss is evaluated without ever losing the true weights."""

from foretune.engine.base import AbstractEngine, EngineName, Perturbation, Tangent, eval_mode, read_loss
from foretune.engine.choice import ENGINES, choose_engine
from foretune.engine.interrupts import hold_interrupts

__all__ = [
    "ENGINES",
    "AbstractEngine",
    "EngineName",
    "Perturbation",
    "Tangent",
    "choose_engine",
    "eval_mode",
    "hold_interrupts",
    "read_loss",
]
