"""TrainingArguments with a method."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SchedulerType

from foretune.engine import ENGINES, EngineName
from foretune.errors import UsageError, near_misses
from foretune.methods import (
    BASELINES,
    HYBRIDS,
    AbstractFirstOrder,
    AbstractMethod,
    AbstractRecipe,
    HybridRecipe,
    make_method,
)
from foretune.methods.recipe import build
from foretune.registry import RegistryPart

OnDivergence = Literal["stop", "rollback", "ignore"]
"""What happens when a run gets worse and worse."""

_FEEDBACK_SCHEDULERS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)

# Settings of transformers that must keep their default, and why.
_FIXED = {
    "logging_nan_inf_filter": "it would hide non-finite losses",
    "weight_decay": "the method decays the weights; give it in method_options",
    "optim": "the method is the optimizer; give its name as method",
    "torch_compile": "it would compile after the engine is chosen; compile the model yourself",
    "auto_find_batch_size": "another batch size is another run",
    "deepspeed": "distributed runs are not supported yet",
    "fsdp": "distributed runs are not supported yet",
    "eval_on_start": "no journal exists before the first step; call evaluate() before train()",
    "ignore_data_skip": "a resumed run would see other rows",
    "restore_callback_states_from_checkpoint": "a resumed run would stop at another step",
}
_OFF_IN_EVAL_MODE = "losses are measured in eval mode, in which it is off"
_FIXED_WITHOUT_GRADIENT = {
    "max_grad_norm": "there is no gradient to clip; estimates are clipped by a setting of the method",
    "fp16": "it scales gradients, of which there are none; load the model in float16 instead",
    "gradient_checkpointing": "there is no backward pass to save memory for",
    "activation_checkpointing": "there is no backward pass to save memory for",
    "neftune_noise_alpha": _OFF_IN_EVAL_MODE,
}
_FIXED_WITH_GRADIENT = {"fp16": "the state of its loss scaler would not be resumed; use bf16"}


@dataclass
class RunArguments(TrainingArguments):
    """What the arguments of all runs share; everything else is as in transformers.

    What differs: `learning_rate` defaults to the method's, the schedule is constant, the order of the rows
    follows from `seed` (or `data_seed`) alone, callbacks that hold state are restored on resume, one device
    is used. `on_divergence` says what happens when the run gets worse and worse.
    """

    # pyrefly: ignore[bad-override]
    _VALID_DICT_FIELDS: ClassVar = [*TrainingArguments._VALID_DICT_FIELDS, "method_options"]
    _kind: ClassVar[str]
    _fixed: ClassVar[Mapping[str, str]]

    method: str = field(default="", metadata={"help": "Method."})
    method_options: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Settings of the method, as JSON on a command line."}
    )
    # pyrefly: ignore[bad-override-mutable-attribute]
    learning_rate: float | None = field(default=None, metadata={"help": "Learning rate; default: the method's."})
    on_divergence: OnDivergence = field(
        default="stop", metadata={"help": "stop, rollback (to an earlier step, with a smaller lr) or ignore."}
    )
    lr_scheduler_type: SchedulerType | str = field(default="constant", metadata={"help": "Schedule of the lr."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay off: it hides bad losses."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Must stay on: early stopping goes on where it stood."}
    )
    trackio_static_space_id: str | None | Literal[False] = field(  # noqa: RUF036 - transformers' parser reads the order
        default=False, metadata={"help": "A push of the model is no push of its figures, unless a Space is named."}
    )
    hub_strategy: HubStrategy | str = field(
        default="end", metadata={"help": "Must stay 'end': pushes of every save have a pickle."}
    )

    def __post_init__(self) -> None:
        self._refuse_fixed()
        policies = get_args(OnDivergence)
        if self.on_divergence not in policies:
            raise UsageError(
                f"Unknown on_divergence {self.on_divergence!r}.{near_misses(self.on_divergence, policies)}"
            )
        self._refuse_processes(int(os.environ.get("WORLD_SIZE", "1")))  # before transformers waits for the others
        if self.lr_scheduler_type in _FEEDBACK_SCHEDULERS:
            raise UsageError(
                f"lr_scheduler_type {SchedulerType(self.lr_scheduler_type).value!r} depends on evaluations "
                "and cannot be resumed exactly; use constant, linear, cosine or constant_with_warmup."
            )
        super().__post_init__()
        self._refuse_processes(self.world_size)
        self._n_gpu = min(self.n_gpu, 1)  # transformers would wrap the model in DataParallel
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise UsageError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value!r} writes a pickle at every push: set it to 'end'."
            )
        if self.data_seed is None:
            self.data_seed = self.seed  # else the rows' order would follow torch's global seed at that time
        self.method_options = self.method_options or {}

    def _options(self) -> dict[str, Any]:
        """Return the settings that were given for the method."""
        options = self.method_options
        if not isinstance(options, dict):
            raise UsageError(f"method_options must be a dict or a JSON object, got {options!r}.")
        if "lr" in options:
            raise UsageError("Give the learning rate as learning_rate, not as lr in method_options.")
        if self.learning_rate is not None:
            if not (self.learning_rate >= 0 and math.isfinite(self.learning_rate)):
                raise UsageError(f"learning_rate must be 0 or more and finite, got {self.learning_rate}.")
            options = {**options, "lr": self.learning_rate}
        return options

    def _refuse_fixed(self) -> None:
        defaults = {setting.name: setting.default for setting in fields(self)}
        for name, reason in self._fixed.items():
            value, default = getattr(self, name), defaults[name]
            if value != default and (value or default):  # transformers turns None into False
                raise UsageError(f"{name}={value!r} is not for {self._kind} runs: {reason}. Leave it {default!r}.")

    @staticmethod
    def _refuse_processes(number: int) -> None:
        if number > 1:
            raise UsageError(f"WORLD_SIZE is {number}: distributed runs are not supported yet; start one process.")


@dataclass
class ZOTrainingArguments(RunArguments):
    """Arguments of a zeroth-order run; everything else is as in transformers.

    What differs: `learning_rate` defaults to the method's, the schedule is constant, the order of the rows
    follows from `seed` (or `data_seed`) alone, callbacks that hold state are restored on resume, one device
    is used.

    Args:
        method: Name of the method; see `foretune methods`.
        method_options: Settings of the method (zo_eps, num_directions, rank, ...), except its lr; a JSON
            string on a command line.
        engine: How perturbed losses are evaluated: auto, layerwise, in_place or paired.
        on_divergence: stop ends a run that diverges, ignore lets it go on, and rollback goes back to a checkpoint from
            before the trouble, with a smaller lr.
    Raises:
        UsageError: an unknown method, option, engine or policy; a value out of range; a setting of transformers that
            has no effect or no exact resume here.
    """

    _kind: ClassVar[str] = "zeroth-order"
    _fixed: ClassVar[Mapping[str, str]] = {**_FIXED, **_FIXED_WITHOUT_GRADIENT}

    method: str = field(default="mezo", metadata={"help": "Zeroth-order method."})
    engine: EngineName = field(default="auto", metadata={"help": "auto, layerwise, in_place or paired."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Must stay 0: there is no gradient to clip."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_engine(self.engine)
        if self.on_divergence == "rollback" and self.save_only_model:
            raise UsageError("on_divergence 'rollback' goes back to whole checkpoints: leave save_only_model False.")
        total_steps = self.max_steps if self.max_steps > 0 else None
        self._method = make_method(self.method, self._options(), total_steps=total_steps)
        self.learning_rate = self._method.lr

    @property
    def zo_method(self) -> AbstractMethod:
        """The method with its settings."""
        return self._method


@dataclass
class GradientArguments(RunArguments):
    """What the arguments of runs with backpropagation share: `max_grad_norm` is a setting of the recipe."""

    _recipes: ClassVar[RegistryPart[Any]]

    # pyrefly: ignore[bad-override-mutable-attribute]
    max_grad_norm: float | None = field(default=None, metadata={"help": "Set by the method's own setting."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_divergence == "rollback":
            raise UsageError(
                f"on_divergence 'rollback' goes back along the journal of a zeroth-order run, and {self.method!r} "
                "follows gradients: use 'stop' or 'ignore'."
            )
        self._recipe = build(self._recipes.get(self.method), self._options())
        self._recipe.check()
        self.learning_rate = self._recipe.lr
        if self.max_grad_norm not in (None, self._recipe.max_grad_norm):
            raise UsageError("Give max_grad_norm in method_options: it is a setting of the method.")
        self.max_grad_norm = self._recipe.max_grad_norm

    @property
    def recipe(self) -> AbstractRecipe:
        """The method or baseline with its settings."""
        return self._recipe


@dataclass
class FOTrainingArguments(GradientArguments):
    """Arguments of a first-order run; everything else is as in transformers.

    What differs is what differs for `ZOTrainingArguments`; `max_grad_norm` is the baseline's.

    Args:
        method: Name of the baseline: sgd, adam or adamw.
        method_options: Settings of the baseline (betas, weight_decay, ...), except its lr; a JSON string on a
            command line.
    Raises:
        UsageError: an unknown baseline or option; a value out of range; a setting of transformers that has no
            effect or no exact resume here.
    """

    _kind: ClassVar[str] = "first-order"
    _fixed: ClassVar[Mapping[str, str]] = {**_FIXED, **_FIXED_WITH_GRADIENT}
    _recipes: ClassVar[RegistryPart[AbstractFirstOrder]] = BASELINES

    method: str = field(default="adamw", metadata={"help": "First-order baseline."})

    @property
    def recipe(self) -> AbstractFirstOrder:
        """The baseline with its settings."""
        return self._recipe


@dataclass
class HybridTrainingArguments(GradientArguments):
    """Arguments of a hybrid run; everything else is as in transformers.

    What differs is what differs for `ZOTrainingArguments`; `max_grad_norm` is the method's.

    Args:
        method: Name of the method, hybrid.
        method_options: Settings of the method (hybrid_zo_layers, fo_lr, ...), except its lr; a JSON string on a
            command line.
        engine: How perturbed losses are evaluated: auto, layerwise, in_place or paired.
    Raises:
        UsageError: an unknown option or engine; a value out of range; a setting of transformers that has no effect or
            no exact resume here.
    """

    _kind: ClassVar[str] = "hybrid"
    _fixed: ClassVar[Mapping[str, str]] = {
        **_FIXED,
        **_FIXED_WITH_GRADIENT,
        "gradient_checkpointing": _OFF_IN_EVAL_MODE,
        "activation_checkpointing": _OFF_IN_EVAL_MODE,
        "neftune_noise_alpha": _OFF_IN_EVAL_MODE,
    }
    _recipes: ClassVar[RegistryPart[HybridRecipe]] = HYBRIDS

    method: str = field(default="hybrid", metadata={"help": "Hybrid method."})
    engine: EngineName = field(default="auto", metadata={"help": "auto, layerwise, in_place or paired."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_engine(self.engine)

    @property
    def recipe(self) -> HybridRecipe:
        """The method with its settings."""
        return self._recipe


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}.{near_misses(engine, ENGINES)}")
