"""What every recipe is, zeroth-order or not: a frozen dataclass of published settings under a name."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from foretune.errors import UsageError, near_misses
from foretune.registry import Registry


@dataclass(frozen=True, kw_only=True)
class AbstractRecipe(abc.ABC):
    """Settings of a published way to train.

    Attributes:
        lr: Learning rate, the published default for full tuning.
    """

    paper: ClassVar[str]
    """Title and arXiv number."""
    family: ClassVar[str]
    """Heading of the method list under which it stands."""
    schemes: ClassVar[tuple[str, ...]] = ("full", "lora", "prefix", "prompt")
    """Tuning schemes it is defined for."""
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType({})
    """Published settings for other schemes than full tuning, by scheme."""

    lr: float

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UsageError: a setting out of range.
        """

    def describe(self) -> dict[str, Any]:
        """Return the recipe's name and settings."""
        return {"name": method_name(type(self)), **asdict(self)}


RECIPES: Registry[type[AbstractRecipe]] = Registry("method", "foretune.methods")

Recipe = TypeVar("Recipe", bound=AbstractRecipe)


def method_name(recipe: type[AbstractRecipe]) -> str:
    """The registered name of a recipe: that of its module."""
    return recipe.__module__.rpartition(".")[2]


def build(
    recipe: type[Recipe], options: Mapping[str, Any], *, total_steps: int | None = None, tuning: str | None = None
) -> Recipe:
    """Make a recipe of its options, by name; its settings are not checked yet.

    Args:
        recipe: What to make.
        options: Settings that differ from the defaults.
        total_steps: Length of the run, for recipes that have such a setting and are not given it.
        tuning: Tuning scheme, whose published settings replace the defaults; None for those of full tuning.
    Raises:
        UsageError: an unknown option (near misses suggested), or a scheme that the recipe is not defined for.
    """
    name = method_name(recipe)
    known = [field.name for field in fields(recipe)]
    for option in options:
        if option not in known:
            raise UsageError(f"Method '{name}' has no option {option!r}.{near_misses(option, known)}")
    if tuning is not None:
        if tuning not in recipe.schemes:
            usable = " or ".join(recipe.schemes)
            raise UsageError(f"Method '{name}' is not defined for --tuning {tuning}; use {usable}.")
        options = {**recipe.tuning_defaults.get(tuning, {}), **options}
    if total_steps is not None and "total_steps" in known:
        options = {"total_steps": total_steps, **options}
    return recipe(**options)


def option_help(recipe: type) -> dict[str, str]:
    """Return what the docstring of a recipe or part says about each setting, on one line."""
    from docstring_parser import parse

    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(recipe.__doc__ or "").params}
