"""The baselines that need a gradient: ordinary backpropagation on the same objective, under the same command."""

from foretune.methods.first_order.adam import AdamRecipe
from foretune.methods.first_order.adamw import AdamWRecipe
from foretune.methods.first_order.base import BASELINES, AbstractFirstOrder
from foretune.methods.first_order.sgd import SGDRecipe

__all__ = ["BASELINES", "AbstractFirstOrder", "AdamRecipe", "AdamWRecipe", "SGDRecipe"]
