"""The model card of a run of `foretune train`: settings, rows, figures, hashes, and how to make the model again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn

from foretune.adapters import AbstractTuning
from foretune.hub import is_local
from foretune.methods import AbstractMethod, AbstractRecipe
from foretune.runs.config import TrainConfig
from foretune.runs.output import CONFIG_NAME
from foretune.trainer import model_card as cards
from foretune.trainer.trainer import JOURNAL_NAME

_OF_THE_RUN = (
    *("batch_size", "gradient_accumulation_steps", "lr_scheduler", "warmup_steps", "seed"),
    *("eval_steps", "max_length"),
)
"""Settings that are listed beside the method's."""
_OF_OWN_ROWS = ("prompt", "label_words", "candidates", "label_field", "completion", "messages", "max_new_tokens")
"""What a user's own rows are read by."""


def run_card(
    config: TrainConfig,
    recipe: AbstractRecipe,
    tuning: AbstractTuning,
    model: nn.Module,
    results: Mapping[str, Any],
    *,
    datasets: Sequence[str],
    weights_hash: str,
    rows_hash: str,
) -> ModelCard:
    """Return the card of a finished run; equal for equal runs.

    Args:
        config: The run.
        recipe, tuning: Its method and scheme.
        model: The tuned model.
        results: What results.json holds.
        datasets: Ids of the hub datasets that its rows came from.
        weights_hash, rows_hash: Of the weights before tuning, and of training and dev rows.
    """
    task, figures, rows = results["task"], results["metrics"], results["num_rows"]
    base, journal = cards.base_name(config.model), Path(config.output) / JOURNAL_NAME
    chosen = results["final_model"]
    name = results["method"]
    data = cards.metadata(
        model,
        recipe,
        base=config.model,
        task=task,
        datasets=datasets,
        figures=figures["final"],
    )
    steps = f"step {chosen['step']} of {results['steps']}, {chosen['selected_by']}"
    settings = {
        "tuning": tuning.name,
        tuning.name: {key: value for key, value in tuning.describe().items() if key != "name"},
        "trained parameters": results["num_trainable_parameters"],
        "engine": results["engine"],
        "dtype": results["dtype"],
        "steps": results["steps"],
        **{key.replace("_", " "): results["config"][key] for key in _OF_THE_RUN},
    }
    return cards.make_card(
        data,
        f"{base} tuned on {task} with {name}",
        f"{cards.describe_tuning(model)} `{base}`, tuned on {task} by {cards.describe_method(recipe)}.",
        {
            "Figures": [
                cards.figures_table(
                    f"{rows['eval']} test rows",
                    {
                        "majority class": figures["majority"],
                        "before tuning (zero-shot)": figures["zero_shot"],
                        f"tuned ({steps})": figures["final"],
                    },
                ),
                _overlap(figures),
            ],
            "Rollbacks": cards.rollbacks_section(results.get("rollbacks", ())),
            "Method": cards.method_section(recipe, settings),
            "Rows": [_rows(config, results)],
            "Make it again": [
                _commands(config, recipe),
                cards.origins(
                    weights_hash=weights_hash,
                    record=journal if isinstance(recipe, AbstractMethod) else None,
                    training_and_dev_rows=rows_hash,
                ),
                cards.versions(model),
            ],
        },
    )


def _overlap(figures: Mapping[str, Any]) -> str:
    share = figures["overlap"].get("dev_test")
    return f"Of the dev rows, which chose the step, {share:.1%} are test rows as well." if share else ""


def _rows(config: TrainConfig, results: Mapping[str, Any]) -> str:
    numbers, data = results["num_rows"], results["data"]
    said = {
        "task": results["task"],
        "objective": results["objective"],
        "template": config.template,
        **{key.replace("_", " "): getattr(config, key) for key in _OF_OWN_ROWS},
        "training, dev and test rows": f"{numbers['train']}, {numbers['dev']}, {numbers['eval']}",
        "seed of their draw": config.train_set_seed,
        "rows of each class": config.shots,
        "training rows from": _origin(data.get("train")),
        "test rows from": _origin(data.get("eval")),
    }
    return cards.table(("", ""), cards.flat(said))


def _origin(origin: Any) -> str | None:
    """Name a file of rows without its folder, and a hub dataset as it is."""
    if not isinstance(origin, str):
        return None
    return f"a file, {Path(origin).name}" if is_local(origin) else origin


def _commands(config: TrainConfig, recipe: AbstractRecipe) -> str:
    model = " --model FOLDER" if is_local(config.model) else ""
    lines = [
        ("# the same run again, from the same base model and rows", f"train --config {CONFIG_NAME}{model} --output DIR")
    ]
    if isinstance(recipe, AbstractMethod):
        said = f"# this model from base model and {JOURNAL_NAME}, without rows"
        lines.append((said, f"replay {JOURNAL_NAME}{model} --output DIR"))
    code = "\n".join(f"{said}\nforetune {command}" for said, command in lines)
    text = f"With the files {CONFIG_NAME} and {JOURNAL_NAME} of the run" if len(lines) == 2 else f"With {CONFIG_NAME}"
    return f"{text}, the same versions and the same kind of device:\n\n```\n{code}\n```"
