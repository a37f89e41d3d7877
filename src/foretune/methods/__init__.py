"""Named recipes: each module composes parts, sets the published defaults and cites its paper.

`METHODS` finds every module of this folder by itself. `optimizer_class` turns a recipe into the class that
users meet (`foretune.MeZO(model, lr=..., zo_eps=...)`).
"""

from foretune.methods.base import (
    METHODS,
    AbstractMethod,
    make_method,
    method_name,
    optimizer_class,
    option_help,
)

__all__ = ["METHODS", "AbstractMethod", "make_method", "method_name", "optimizer_class", "option_help"]
