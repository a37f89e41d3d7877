"""What there is to say about each method, read off its recipe: for `foretune methods` and docs/methods.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import nn

from foretune.errors import UsageError, first_line_of
from foretune.methods import (
    RECIPES,
    AbstractFirstOrder,
    AbstractMethod,
    AbstractRecipe,
    HybridRecipe,
    make_recipe,
    option_help,
)
from foretune.optimizer import state_bytes
from foretune.parameters import collect_trainables
from foretune.types import Parts, Trainable

TYPICAL_STEPS = 20_000
"""Length of a run for settings that depend on it: the published one."""
FIRST_FAMILY = "ZO-SGD"
_SECTION = re.compile(r"^(Args|Attributes|Raises|References|Returns):$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a method: its name, default as text, and meaning."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A method or baseline as the catalogue shows it.

    Attributes:
        name: Registered name.
        class_name: Name of the optimizer class; None where it is torch's (first-order baselines) or takes two (hybrid).
        aliases: Spellings of published code that are understood.
        family: Heading it stands under.
        paper: Title and arXiv number.
        schemes: Tuning schemes it is defined for.
        num_forwards: Loss evaluations per step with the default settings (a block-wise schedule not counted).
        num_backwards: Backward passes per step.
        description: What it is, its equations and costs.
        notes: References, and how it differs from published code.
        options: Its settings.
    """

    name: str
    class_name: str | None
    aliases: tuple[str, ...]
    family: str
    paper: str
    schemes: tuple[str, ...]
    num_forwards: int
    num_backwards: int
    description: str
    notes: str
    options: tuple[Option, ...]

    @property
    def passes(self) -> str:
        """Passes through the model in a step, as tables show them."""
        return f"{self.num_forwards} and a backward" if self.num_backwards else str(self.num_forwards)


def entries() -> list[Entry]:
    """Return every method, by family and name; the plain one's family comes first, first-order baselines last."""

    def place(method: Entry) -> tuple[object, ...]:
        return method.class_name is None, method.family != FIRST_FAMILY, method.family.casefold(), method.name

    return sorted((entry(name) for name in RECIPES), key=place)


def entry(name: str) -> Entry:
    """Return one method.

    Raises:
        UsageError: no such method; near misses are suggested.
    """
    recipe = RECIPES.get(name)
    forwards, backwards = num_passes(_typical(name))
    text = inspect.cleandoc(recipe.__doc__ or "")
    description, sections = _sections(text)
    texts = option_help(recipe)
    options = tuple(Option(field.name, _default(field), texts.get(field.name, "")) for field in fields(recipe))
    canonical = next(known for known in RECIPES if RECIPES.get(known) is recipe)
    return Entry(
        name=canonical,
        class_name=recipe.class_name if issubclass(recipe, AbstractMethod) else None,
        aliases=RECIPES.aliases(canonical),
        family=recipe.family,
        paper=recipe.paper,
        schemes=recipe.schemes,
        num_forwards=forwards,
        num_backwards=backwards,
        description=description,
        notes=sections.get("References", ""),
        options=options,
    )


def num_forwards(parts: Parts, trainables: Sequence[Trainable]) -> int:
    """Return the loss evaluations of a method's first step on these tensors."""
    blocks = parts.schedule.blocks(0, trainables, seed=0)
    return len(blocks) * parts.num_forwards


def num_passes(recipe: AbstractRecipe) -> tuple[int, int]:
    """Return the forwards and backwards of a step (of a block-wise schedule: on two blocks)."""
    if isinstance(recipe, AbstractMethod):
        return num_forwards(recipe.parts(), adapter_pair()), 0
    shared = num_passes(recipe.zo)[0] if isinstance(recipe, HybridRecipe) else 0
    return shared + 1, 1


def num_state_bytes(name: str, trainables: Sequence[Trainable]) -> int:
    """Return the bytes of optimizer state that a method or baseline keeps for these tensors, a hybrid at most."""
    return recipe_state_bytes(_typical(name), trainables)


def recipe_state_bytes(recipe: AbstractRecipe, trainables: Sequence[Trainable]) -> int:
    """Return the same for a method or baseline with its settings."""
    if isinstance(recipe, HybridRecipe):
        recipe = recipe.fo
    if isinstance(recipe, AbstractFirstOrder):
        sizes = (trainable.parameter.numel() * trainable.parameter.itemsize for trainable in trainables)
        return recipe.num_state_tensors * sum(sizes)
    assert isinstance(recipe, AbstractMethod)
    return state_bytes(recipe.parts(), trainables)


def _typical(name: str) -> AbstractRecipe:
    return make_recipe(name, {}, total_steps=TYPICAL_STEPS)


def trainables_of(model: str, *, revision: str | None = None) -> tuple[Trainable, ...]:
    """Return the tensors of a model under full tuning without loading its weights: shapes on the meta device.

    Args:
        model: A local folder or a hub id; its configuration is read.
        revision: Of a hub model.
    Raises:
        UsageError: there is no such model, or it is no causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"--model {model}: cannot read its configuration: {first_line_of(error)}") from error
    return collect_trainables(empty, shapes_only=True)


def adapter_pair() -> tuple[Trainable, ...]:
    """The tensors of one LoRA adapter: every method has a step on them."""
    shapes = {"lora_A": (2, 3), "lora_B": (3, 2)}
    return collect_trainables(nn.ParameterDict({name: nn.Parameter(torch.zeros(s)) for name, s in shapes.items()}))


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into what stands before its sections, and these."""
    description, *rest = _SECTION.split(text)
    names, bodies = rest[::2], rest[1::2]
    return description.rstrip(), {name: inspect.cleandoc(body) for name, body in zip(names, bodies, strict=True)}


def _default(field: Any) -> str:
    value = field.default
    if value is MISSING:
        value = field.default_factory()
    return "-" if value is None else str(value)
