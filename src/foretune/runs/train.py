"""One training run, from rows and a base model to a folder with the tuned model and its figures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from foretune.adapters import AbstractTuning, make_tuning
from foretune.composition import AXES
from foretune.data import TaskData
from foretune.journal import check_header
from foretune.methods import RECIPES, AbstractMethod, AbstractRecipe, make_recipe
from foretune.objectives import check_window
from foretune.runs.config import TrainConfig
from foretune.runs.costs import StepClock, peak_memory_bytes
from foretune.runs.loading import (
    ModelKind,
    load_config,
    load_model,
    load_tokenizer,
    model_kind,
    resolve_device,
    resolve_dtype,
)
from foretune.runs.output import (
    CONFIG_NAME,
    FINAL_NAME,
    RESULTS_NAME,
    check_output,
    make_output,
    read_results,
    write_results,
)
from foretune.runs.protocol import (
    PROTOCOLS,
    AbstractProtocol,
    ObjectiveChoice,
    check_prompt,
    choose_objective,
    make_protocol,
)
from foretune.runs.rows import load_rows
from foretune.runs.task import task_of
from foretune.runs.trainers import trainer_class, training_arguments
from foretune.trainer import Diagnostics, ZOTrainer
from foretune.trainer.arguments import RunArguments
from foretune.trainer.snapshots import SnapshotTrainer

logger = logging.getLogger(__name__)

# settings that may change between the parts of an interrupted run: the journal's hashes cover model and rows
_FREE_ON_RESUME = {
    "model",
    "revision",
    "data_dir",
    "data",
    "eval_data",
    "output",
    "resume",
    "eval_batch_size",
    "trust_remote_code",
    "device",
    "diagnostics",
}


def train(config: TrainConfig, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, Any]:
    """Run `config` and return what `results.json` holds.

    Everything a user can get wrong is checked before the model is loaded. A finished run with `resume` returns
    its results again.

    Raises:
        UsageError: an option or an input file is wrong.
        JournalError: the run in the output folder cannot be continued with these settings.
    """
    config.check()
    tuning = make_tuning(config.tuning)
    recipe = make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=tuning.name)
    _warn_of_defaults(config, recipe, tuning)
    output = Path(config.output)
    check_output(output, resume=config.resume, has_journal=isinstance(recipe, AbstractMethod))
    if config.resume and (output / RESULTS_NAME).exists():
        undecided = {"dtype"} if config.dtype == "auto" else set()
        results = read_results(output)
        expected = _resolve(config, recipe, tuning, config.dtype)
        check_header(results["config"], expected, ignore=(*_FREE_ON_RESUME, *undecided))
        return results
    task = task_of(config)
    kind = model_kind(load_config(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code))
    check_prompt(task, kind, config.template)
    choice = choose_objective(task, config.objective, kind)
    data = load_rows(config, task, kind, num_train=config.num_train, num_dev=config.num_dev)
    arguments = training_arguments(config, recipe, selection=PROTOCOLS[kind].selection if data.dev else None)
    make_output(output)
    loaded = _load(config, data, choice, kind, tuning)
    resolved = _resolve(config, recipe, tuning, loaded.dtype)
    (output / CONFIG_NAME).write_text(yaml.safe_dump(resolved, sort_keys=False))
    trainer = _make_trainer(config, arguments, loaded, resolved, callbacks)
    trainer.create_optimizer()  # refuses what cannot work on this model, before anything is evaluated
    zero_shot = loaded.score(loaded.test, loaded.base)  # with LoRA the base holds an adapter that adds nothing yet
    clock = StepClock(lambda step: trainer.repeats_step or bool(config.diagnostics and step % config.diagnostics == 0))
    trainer.add_callback(clock)
    trainer.train(resume_from_checkpoint=config.resume)
    trainer.save_model(str(output / FINAL_NAME))
    results = {
        "task": data.task.name,
        "objective": choice.name,
        "data": data.describe(),
        "method": recipe.describe()["name"],
        "tuning": tuning.name,
        "model": config.model,
        "steps": config.steps,
        "seed": config.seed,
        **loaded.describe(),
        "metrics": {
            "zero_shot": zero_shot,
            "final": loaded.score(loaded.test),
            "majority": data.majority,
        },
        "final_model": _selection(config, trainer, loaded),
        "seconds_per_step": clock.seconds_per_step,
        "state_bytes": trainer.state_bytes,
        "peak_memory_bytes": peak_memory_bytes(arguments.device),
        "engine": trainer.engine_name,
        "config": resolved,
    }
    write_results(output, results)
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A model and encoded rows.

    Attributes:
        model: What is tuned.
        base: The model without its adapter; `model` itself under full tuning.
    """

    model: nn.Module
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    protocol: AbstractProtocol
    rows: list[Any]
    dev: list[Any]
    test: list[Any]

    @property
    def dtype(self) -> str:
        """The weights' dtype, as options spell it."""
        return str(self.base.dtype).removeprefix("torch.")

    def score(
        self, rows: Sequence[Any], model: nn.Module | None = None, *, only_loss: bool = False
    ) -> dict[str, float]:
        """Evaluate a model, the tuned one by default, on these rows."""
        return self.protocol.evaluate(model or self.model, rows, only_loss=only_loss).figures

    def describe(self) -> dict[str, Any]:
        """Return what results.json says of model and rows."""
        return {
            "num_trainable_parameters": sum(t.numel() for t in self.model.parameters() if t.requires_grad),
            "dtype": self.dtype,
            "num_rows": {"train": len(self.rows), "dev": len(self.dev), "eval": len(self.test)},
        }


def _load(
    config: TrainConfig, data: TaskData, choice: ObjectiveChoice, kind: ModelKind, tuning: AbstractTuning
) -> _Loaded:
    """Load the model, attach what is tuned, encode the rows."""
    device = resolve_device(config.device)
    tokenizer = load_tokenizer(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    base = load_model(
        config.model,
        dtype=resolve_dtype(config.dtype, device),
        device=device,
        kind=kind,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    model = tuning.attach(base, seed=config.seed, revision=config.revision)
    protocol = make_protocol(config, data.task, choice, kind, model, tokenizer)
    rows, dev, test = (protocol.encode(part) for part in (data.train, data.dev, data.evaluation))
    check_window(model, protocol.longest([*rows, *dev, *test]))
    return _Loaded(
        model=model,
        base=base,
        tokenizer=tokenizer,
        protocol=protocol,
        rows=rows,
        dev=dev,
        test=test,
    )


def _make_trainer(
    config: TrainConfig,
    arguments: RunArguments,
    loaded: _Loaded,
    resolved: dict[str, Any],
    callbacks: Sequence[TrainerCallback],
) -> ZOTrainer | SnapshotTrainer:
    objective = loaded.protocol.objective(loaded.model)
    trainer = trainer_class(arguments)(
        loaded.model,
        arguments,  # pyrefly: ignore[bad-argument-type]  # the class follows them
        objective=objective,
        evaluator=lambda model: loaded.score(loaded.dev, model, only_loss=True),
        run_info={
            "origin": {"model": config.model, "revision": config.revision, "dtype": loaded.dtype},
            "selection_metric": loaded.protocol.selection[0] if loaded.dev else None,
            "rows_hash": _hash_rows(loaded.rows, loaded.dev),
            "config": {name: value for name, value in resolved.items() if name not in _FREE_ON_RESUME},
        },
        train_dataset=loaded.rows,
        eval_dataset=loaded.dev or None,
        data_collator=objective.collate,
        processing_class=loaded.tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    if config.diagnostics is not None:
        trainer.add_callback(Diagnostics(trainer, config.diagnostics))
    return trainer


def _selection(config: TrainConfig, trainer: ZOTrainer | SnapshotTrainer, loaded: _Loaded) -> dict[str, Any]:
    """Say which step's model is the final one, and why."""
    if not loaded.dev:
        return {"step": config.steps, "selected_by": "last step (no dev rows)"}
    step = trainer.state.best_global_step or config.steps
    return {"step": step, "selected_by": f"best dev {loaded.protocol.selection[0].removeprefix('eval_')}"}


def _resolve(config: TrainConfig, recipe: AbstractRecipe, tuning: AbstractTuning, dtype: str) -> dict[str, Any]:
    """Return every setting as it takes effect; the options a method shares stand under `method` only."""
    resolved = {
        **asdict(config),
        "method": recipe.describe(),
        "tuning": tuning.describe(),
        "eval_steps": config.resolved_eval_steps,
        "dtype": dtype,
    }
    for shared in ("lr", "zo_eps", "num_directions", *AXES):
        del resolved[shared]
    return resolved


def _warn_of_defaults(config: TrainConfig, recipe: AbstractRecipe, tuning: AbstractTuning) -> None:
    """Say that a learning rate is that of full tuning: adapters need one 100 to 10,000 times larger."""
    kind = RECIPES.get(config.method["name"])  # what is published is so of the method, whichever parts were replaced
    published = "full" not in kind.schemes or tuning.name in {"full", *kind.tuning_defaults}
    if not published and "lr" not in config.method_options:
        logger.warning(
            "No lr is known for --method %s with --tuning %s; %g is that of full tuning and likely far too small.",
            config.method["name"],
            tuning.name,
            recipe.lr,
        )


def _hash_rows(*parts: Sequence[Any]) -> str:
    """Return a digest of all rows, in order, but for their names."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            content = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "name"}
            digest.update(repr(content).encode())
        digest.update(b"|")
    return digest.hexdigest()
