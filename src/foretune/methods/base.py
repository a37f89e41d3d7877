"""What a zeroth-order method is: a recipe whose settings build five parts."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from foretune.composition import AXES, compose
from foretune.engine import EngineName
from foretune.errors import UsageError
from foretune.methods.recipe import RECIPES, AbstractRecipe, build, method_name
from foretune.optimizer import Optimizer
from foretune.types import Parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    """Settings with which a method solves a linear regression of a dozen numbers; kept by its promise tests.

    The weights are those of a linear layer or, for methods that are defined for LoRA only, of an adapter on it.

    They also make everything a method does happen within a few steps (a basis is redrawn, a block changes).

    Attributes:
        options: Settings that differ from the published defaults.
        num_steps: Steps after which the loss is below a hundredth of the first one, whatever the seed.
    """

    options: Mapping[str, Any]
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class AbstractMethod(AbstractRecipe):
    """Settings of a published zeroth-order method.

    Attributes:
        lr: Learning rate, the published default for full tuning.
    """

    class_name: ClassVar[str]
    """Name of the optimizer class, as the field spells the method."""
    toy: ClassVar[Toy]
    """Settings for the promise tests."""
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Promises it cannot keep (names of tests in tests/promises, without `test_`), each with the reason."""

    @abc.abstractmethod
    def parts(self) -> Parts:
        """Compose the method from parts.

        Raises:
            UsageError: a setting out of range.
        """

    def check(self) -> None:
        """Refuse settings that no parts can be made of."""
        self.parts()

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that make `Optimizer` this method."""
        parts = self.parts()
        return {
            "lr": self.lr,
            "space": parts.space,
            "direction": parts.direction,
            "estimator": parts.estimator,
            "update": parts.update,
            "schedule": parts.schedule,
            "method": self.describe(),
        }


@dataclass(frozen=True, kw_only=True)
class ComposedMethod(AbstractMethod):
    """A method some of whose parts were replaced, or given other settings, by name.

    Attributes:
        method: The method.
        changes: As in `foretune.composition.compose`.
    """

    method: AbstractMethod
    changes: Mapping[str, Mapping[str, Any]]

    def parts(self) -> Parts:
        """Compose the method, then change its parts."""
        return compose(self.method.parts(), self.changes)

    def describe(self) -> dict[str, Any]:
        """Return the method's name and settings, and the changes by axis."""
        return {**self.method.describe(), **{axis: dict(change) for axis, change in self.changes.items()}}


METHODS = RECIPES.of(AbstractMethod)
"""The zeroth-order methods; `RECIPES` holds the first-order baselines as well."""


def make_method(
    name: str, options: Mapping[str, Any], *, total_steps: int | None = None, tuning: str | None = None
) -> AbstractMethod:
    """Build the method `name` with `options`, and validate its settings.

    Args:
        name: Registered name or alias.
        options: Settings by name. Under the name of an axis (space, direction, update, schedule) a mapping: another
            part for it, or other settings of the method's own (see `foretune.composition`).
        total_steps: Length of the run, for methods that have such a setting and are not given it.
        tuning: Tuning scheme, whose published settings replace the defaults; None for those of full tuning.
    Raises:
        UsageError: unknown method or option (near misses suggested), a setting out of range or one that the parts
            which were asked for leave without effect, or a method that is not defined for the scheme.
    """
    make = partial(_compose_method, METHODS.get(name), total_steps=total_steps, tuning=tuning)
    method = make(options)
    method.check()
    if isinstance(method, ComposedMethod):
        for option in (name for name in options if name not in method.changes):
            usual = make({other: value for other, value in options.items() if other != option})
            assert isinstance(usual, ComposedMethod)
            _check_has_effect(option, method, usual)
    return method


def method_of_description(description: Mapping[str, Any]) -> AbstractMethod:
    """Build the method that `AbstractRecipe.describe` has described, as the header of a journal keeps it."""
    settings = {name: value for name, value in description.items() if name != "name"}
    return _compose_method(METHODS.get(description["name"]), settings)


def _compose_method(
    recipe: type[AbstractMethod],
    options: Mapping[str, Any],
    *,
    total_steps: int | None = None,
    tuning: str | None = None,
) -> AbstractMethod:
    changes = {axis: options[axis] for axis in AXES if isinstance(options.get(axis), Mapping)}
    own = {option: value for option, value in options.items() if option not in changes}
    method = build(recipe, own, total_steps=total_steps, tuning=tuning)
    return ComposedMethod(lr=method.lr, method=method, changes=changes) if changes else method


def _check_has_effect(option: str, method: ComposedMethod, usual: ComposedMethod) -> None:
    """Refuse an option that would change the method's own parts, but not those that were composed of them.

    Where the method's own part has a setting of this name, that part has to be changed; what follows from the option
    for other parts (LOZO's factor on learning rates from its rank) is no reason to give it.

    Args:
        option: Name of a setting of the method.
        method: With the option as it was given.
        usual: The same without it.
    Raises:
        UsageError: naming the option, and what overrides it.
    """
    try:
        own, usual_own, usual_parts = method.method.parts(), usual.method.parts(), usual.parts()
    except UsageError:  # other options that were given ask for this one
        return
    parts = method.parts()
    moved = [axis for axis in own.describe() if getattr(own, axis) != getattr(usual_own, axis)]
    meant = [axis for axis in moved if option in _settings(getattr(own, axis))] or moved
    if meant and all(getattr(parts, axis) == getattr(usual_parts, axis) for axis in meant):
        overriding = ", ".join(
            f"{axis}={value!r}" if setting == "name" else f"{axis}.{setting}={value!r}"
            for axis in meant
            for setting, value in method.changes[axis].items()
        )
        raise UsageError(
            f"{option}={getattr(method.method, option)!r} would have no effect: it is for the {' and '.join(meant)} of "
            f"'{method_name(type(method.method))}', overridden by {overriding}. Drop one of them."
        )


def _settings(part: Any) -> list[str]:
    return [field.name for field in fields(part)]


def make_recipe(
    name: str, options: Mapping[str, Any], *, total_steps: int | None = None, tuning: str | None = None
) -> AbstractRecipe:
    """Build the method or baseline `name` with `options`, and validate its settings: `make_method` for all recipes.

    Raises:
        UsageError: as `make_method`.
    """
    kind = RECIPES.get(name)
    if issubclass(kind, AbstractMethod):
        return make_method(name, options, total_steps=total_steps, tuning=tuning)
    recipe = build(kind, options, total_steps=total_steps, tuning=tuning)
    recipe.check()
    return recipe


def optimizer_class(recipe: type[AbstractMethod]) -> type[Optimizer]:
    """Return the optimizer class of a recipe: its settings, `seed` and `engine` are keyword arguments."""

    def __init__(
        self: Optimizer, model: nn.Module, *, seed: int = 0, engine: EngineName = "auto", **options: Any
    ) -> None:
        method = make_method(method_name(recipe), options)
        Optimizer.__init__(self, model, **method.optimizer_arguments(), seed=seed, engine=engine)

    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type) for f in fields(recipe)]
    own = list(inspect.signature(__init__).parameters.values())[:-1]
    __init__.__signature__ = inspect.Signature(own[:2] + options + own[2:])  # type: ignore[attr-defined]
    return type(recipe.class_name, (Optimizer,), {"__init__": __init__, "__doc__": recipe.__doc__})
