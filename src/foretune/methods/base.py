"""What a method is: a frozen dataclass of settings that builds five parts."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from foretune.composition import AXES, compose
from foretune.engine import EngineName
from foretune.errors import UsageError, near_misses
from foretune.optimizer import Optimizer
from foretune.registry import Registry
from foretune.types import Parts


@dataclass(frozen=True, kw_only=True, slots=True)
class Toy:
    """Settings with which a method solves a linear regression of 10 numbers; kept by its promise tests.

    They also make everything a method does happen within a few steps (a basis is redrawn, a block changes).

    Attributes:
        options: Settings that differ from the published defaults.
        num_steps: Steps after which the loss is below a hundredth of the first one, whatever the seed.
    """

    options: Mapping[str, Any]
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class AbstractMethod(abc.ABC):
    """Settings of a published method.

    Attributes:
        lr: Learning rate, the published default for full tuning.
    """

    class_name: ClassVar[str]
    """Name of the optimizer class, as the field spells the method."""
    paper: ClassVar[str]
    """Title and arXiv number."""
    family: ClassVar[str]
    """Heading of the method list under which it stands."""
    schemes: ClassVar[tuple[str, ...]] = ("full", "lora", "prefix", "prompt")
    """Tuning schemes it is defined for."""
    toy: ClassVar[Toy]
    """Settings for the promise tests."""
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Promises it cannot keep (names of tests in tests/promises, without `test_`), each with the reason."""

    lr: float

    @abc.abstractmethod
    def parts(self) -> Parts:
        """Compose the method from parts.

        Raises:
            UsageError: a setting out of range.
        """

    def describe(self) -> dict[str, Any]:
        """Return the method's name and settings."""
        return {"name": method_name(type(self)), **asdict(self)}

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


METHODS: Registry[type[AbstractMethod]] = Registry("method", "foretune.methods")


def method_name(method: type[AbstractMethod]) -> str:
    """The registered name of a recipe: that of its module."""
    return method.__module__.rpartition(".")[2]


def make_method(name: str, options: Mapping[str, Any], *, total_steps: int | None = None) -> AbstractMethod:
    """Build the recipe `name` with `options`, and validate its settings.

    Args:
        name: Registered name or alias.
        options: Settings by name. Under the name of an axis (space, direction, update, schedule) a mapping: another
            part for it, or other settings of the method's own (see `foretune.composition`).
        total_steps: Length of the run, for recipes that have such a setting and are not given it.
    Raises:
        UsageError: unknown method or option (near misses suggested), or a setting out of range.
    """
    recipe = METHODS.get(name)
    changes = {axis: options[axis] for axis in AXES if isinstance(options.get(axis), Mapping)}
    options = {option: value for option, value in options.items() if option not in changes}
    known = [field.name for field in fields(recipe)]
    for option in options:
        if option not in known:
            raise UsageError(f"Method '{method_name(recipe)}' has no option {option!r}.{near_misses(option, known)}")
    if total_steps is not None and "total_steps" in known:
        options = {"total_steps": total_steps, **options}
    method: AbstractMethod = recipe(**options)
    if changes:
        method = ComposedMethod(lr=method.lr, method=method, changes=changes)
    method.parts()
    return method


def option_help(recipe: type) -> dict[str, str]:
    """Return what the docstring of a method or part says about each setting, on one line."""
    from docstring_parser import parse

    return {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(recipe.__doc__ or "").params}


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
