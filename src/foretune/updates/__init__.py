"""How an estimate becomes a step."""

from foretune.updates.momentum import Momentum
from foretune.updates.sgd import SGD

__all__ = ["SGD", "Momentum"]
