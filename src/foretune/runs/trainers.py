"""Which trainer runs a recipe, and what it is told."""

from __future__ import annotations

from typing import Any

import torch

from foretune.errors import UsageError
from foretune.methods import AbstractFirstOrder, AbstractRecipe, HybridRecipe
from foretune.runs.config import TrainConfig
from foretune.runs.loading import resolve_device
from foretune.trainer import (
    FOTrainer,
    FOTrainingArguments,
    HybridTrainer,
    HybridTrainingArguments,
    ZOTrainer,
    ZOTrainingArguments,
)
from foretune.trainer.arguments import RunArguments
from foretune.trainer.snapshots import SnapshotTrainer

_TRAINERS: dict[type[RunArguments], type[ZOTrainer] | type[SnapshotTrainer]] = {
    ZOTrainingArguments: ZOTrainer,
    FOTrainingArguments: FOTrainer,
    HybridTrainingArguments: HybridTrainer,
}


def training_arguments(
    config: TrainConfig, recipe: AbstractRecipe, *, selection: tuple[str, bool] | None, keeps_model: bool = True
) -> RunArguments:
    """Return the arguments of a run; their class decides about the trainer.

    Args:
        config: The run.
        recipe: Its method.
        selection: The dev figure that chooses the final model and whether larger is better; None without dev rows.
        keeps_model: Whether checkpoints are written.
    Raises:
        UsageError: an option that the recipe has no use for.
    """
    settings = recipe.describe()
    every = config.resolved_eval_steps
    shared: dict[str, Any] = {
        "output_dir": config.output,
        "method": settings.pop("name"),
        "learning_rate": settings.pop("lr"),
        "method_options": settings,
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "lr_scheduler_type": config.lr_scheduler,
        "warmup_steps": config.warmup_steps,
        "seed": config.seed,
        "on_divergence": config.on_divergence,
        "logging_steps": config.log_steps,
        "eval_strategy": "steps" if selection else "no",
        "eval_steps": every,
        "save_strategy": "steps" if keeps_model else "no",
        "save_steps": every,
        "save_total_limit": 2,
        "load_best_model_at_end": selection is not None,
        "metric_for_best_model": selection[0] if selection else None,
        "greater_is_better": selection[1] if selection else None,
        "use_cpu": resolve_device(config.device).type == "cpu",
        "dataloader_pin_memory": config.device != "cpu" and torch.cuda.is_available(),
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": config.report_to or "none",
        "project": "foretune",
    }
    if isinstance(recipe, HybridRecipe):
        return HybridTrainingArguments(**shared, engine=config.engine)
    if not isinstance(recipe, AbstractFirstOrder):
        return ZOTrainingArguments(**shared, engine=config.engine)
    if config.engine != "auto":
        raise UsageError(
            f"--engine {config.engine}: '{shared['method']}' is a first-order baseline, which perturbs nothing; "
            "leave the option out."
        )
    return FOTrainingArguments(**shared)


def trainer_class(arguments: RunArguments) -> type[ZOTrainer] | type[SnapshotTrainer]:
    """Return the trainer of these arguments."""
    return _TRAINERS[type(arguments)]
