"""TrainingArguments with a zeroth-order method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from foretune.engine import ENGINES
from foretune.engine.choice import EngineName
from foretune.errors import UsageError, near_misses
from foretune.methods import AbstractMethod, make_method

_FEEDBACK_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")


@dataclass
class ZOTrainingArguments(TrainingArguments):
    """Arguments of a zeroth-order run; everything else is as in transformers.

    What differs: `learning_rate` defaults to the method's, the schedule is constant, gradients are neither
    clipped nor filtered (there are none), one device is used.

    Args:
        method: Name of the method; see `foretune methods`.
        method_options: Settings of the method (zo_eps, num_directions, rank, ...), except its lr.
        engine: How perturbed losses are evaluated: auto, layerwise or in_place.
    Raises:
        UsageError: an unknown method, option or engine; a value out of range; a setting of transformers that
            has no meaning or no exact resume here.
    """

    method: str = field(default="mezo", metadata={"help": "Zeroth-order method."})
    method_options: dict[str, Any] = field(default_factory=dict, metadata={"help": "Settings of the method."})
    engine: EngineName = field(default="auto", metadata={"help": "auto, layerwise or in_place."})
    learning_rate: float | None = field(default=None, metadata={"help": "Learning rate; default: the method's."})
    lr_scheduler_type: SchedulerType | str = field(default="constant", metadata={"help": "Schedule of the lr."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Must stay 0: there is no gradient to clip."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay off: it hides bad losses."})

    def __post_init__(self) -> None:
        if "lr" in self.method_options:
            raise UsageError("Give the learning rate as learning_rate, not in method_options.")
        options = dict(self.method_options)
        if self.learning_rate is not None:
            options["lr"] = self.learning_rate
        self._zo_method = make_method(self.method, options)
        if not self._zo_method.lr >= 0:
            raise UsageError(f"lr must be 0 or more, got {self._zo_method.lr}.")
        self.learning_rate = self._zo_method.lr
        if self.engine not in ENGINES:
            raise UsageError(f"Unknown engine {self.engine!r}.{near_misses(self.engine, ENGINES)}")
        if self.max_grad_norm:
            raise UsageError(f"max_grad_norm would have no effect (got {self.max_grad_norm}): set it to 0.")
        if self.logging_nan_inf_filter:
            raise UsageError("logging_nan_inf_filter=True would hide non-finite losses: leave it False.")
        if self.fp16:
            raise UsageError("fp16=True scales gradients, of which there are none: load the model in float16 instead.")
        if str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type)) in _FEEDBACK_SCHEDULERS:
            raise UsageError(
                f"lr_scheduler_type {self.lr_scheduler_type!r} depends on evaluations and cannot be resumed exactly; "
                "use constant, linear, cosine or constant_with_warmup."
            )
        super().__post_init__()
        if self.world_size > 1:
            raise UsageError(f"WORLD_SIZE is {self.world_size}: distributed runs are not supported yet; start one process.")
        self._n_gpu = min(self.n_gpu, 1)  # transformers would wrap the model in DataParallel

    @property
    def zo_method(self) -> AbstractMethod:
        """The method with its settings."""
        return self._zo_method
