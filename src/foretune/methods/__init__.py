"""Named recipes: each module sets the published defaults of a method and cites its paper.

`METHODS` finds every module of this folder by itself: zeroth-order methods, which compose parts. `RECIPES` holds the
first-order baselines and hybrid training as well. `optimizer_class` turns a method into the class that users meet
(`foretune.MeZO(model, lr=..., zo_eps=...)`).
"""

from foretune.methods.base import (
    METHODS,
    AbstractMethod,
    make_method,
    make_recipe,
    method_of_description,
    optimizer_class,
)
from foretune.methods.first_order import BASELINES, AbstractFirstOrder
from foretune.methods.hybrid import HYBRIDS, HybridRecipe
from foretune.methods.recipe import RECIPES, AbstractRecipe, method_name, option_help

__all__ = [
    "BASELINES",
    "HYBRIDS",
    "METHODS",
    "RECIPES",
    "AbstractFirstOrder",
    "AbstractMethod",
    "AbstractRecipe",
    "HybridRecipe",
    "make_method",
    "make_recipe",
    "method_name",
    "method_of_description",
    "optimizer_class",
    "option_help",
]
