"""One training run, from rows and a base model to a folder with the tuned model and its figures."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import PrinterCallback, TrainerCallback

from foretune.adapters import AbstractTuning, make_tuning
from foretune.composition import AXES
from foretune.errors import HubError
from foretune.hub import claim_repo, upload, url_of
from foretune.journal import check_header
from foretune.journal.header import jsonable
from foretune.ledger import Run
from foretune.ledger.metrics_file import numbers
from foretune.methods import RECIPES, AbstractMethod, AbstractRecipe, make_recipe
from foretune.runs.config import TrainConfig
from foretune.runs.costs import StepClock, peak_memory_bytes
from foretune.runs.holding import check_free, holding
from foretune.runs.model_card import run_card
from foretune.runs.output import (
    CONFIG_NAME,
    RESULTS_NAME,
    begun_with,
    check_output,
    make_output,
    read_results,
    write_results,
)
from foretune.runs.recording import Membership, Recording, recording
from foretune.runs.sources import AbstractSource, Loaded, make_source
from foretune.runs.trainers import trainer_class, training_arguments
from foretune.trainer import Diagnostics, ZOTrainer
from foretune.trainer.arguments import RunArguments
from foretune.trainer.checkpoint import writing
from foretune.trainer.model_card import save_card
from foretune.trainer.publishing import FINAL_NAME, published_files
from foretune.trainer.snapshots import RUN_NAME, SnapshotTrainer
from foretune.trainer.tracking import TRACKERS, check_login, check_trackers
from foretune.trainer.trainer import JOURNAL_NAME

logger = logging.getLogger(__name__)

# settings that may change between the parts of an interrupted run: the journal's hashes cover model and rows
_FREE_ON_RESUME = {
    "model",
    "revision",
    "data_dir",
    "data",
    "eval_data",
    "output",
    "ledger",
    "resume",
    "eval_batch_size",
    "trust_remote_code",
    "device",
    "diagnostics",
    "on_divergence",
}
_BESIDE = ("report_to", "push_to_hub", "hub_private_repo")
"""Who is told of a run is no setting of it: the same run made again is not pushed again."""

_ALONE = Membership()


def train(
    config: TrainConfig, callbacks: Sequence[TrainerCallback] = (), *, membership: Membership = _ALONE
) -> dict[str, Any]:
    """Run `config` and return what `results.json` holds; the ledger gets a row, however the run ends.

    Everything a user can get wrong is checked before the model is loaded, and before there is a row. A finished run
    with `resume` returns its results again. A run that is pushed to the hub returns `pushed_to` beside them.

    Args:
        config: The run.
        callbacks: Called by the Trainer; one that raises `PrunedError` ends the run as pruned.
        membership: The sweep and suite that the ledger names.
    Raises:
        UsageError: an option or an input file is wrong.
        JournalError: the run in the output folder cannot be continued with these settings.
        LedgerError: the ledger cannot be written.
        TrackerError: a tracker has no login, or does not begin.
        HubError: the hub refuses the repository (before any work), or the upload (the run is finished then).
    """
    config.check()
    check_trackers(config.report_to or (), option="--report-to", known=TRACKERS)
    tuning = make_tuning(config.tuning)
    recipe = make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=tuning.name)
    _warn_of_defaults(config, recipe, tuning)
    output = Path(config.output)
    check_output(output, resume=config.resume, has_journal=isinstance(recipe, AbstractMethod))
    check_free(output)
    begun = begun_with(output) if config.resume else None
    if begun is not None:
        undecided = {"dtype"} if config.dtype == "auto" else set()
        expected = _resolve(config, recipe, tuning, config.dtype)
        check_header(begun, expected, ignore=(*_FREE_ON_RESUME, *undecided))
    if config.resume and (output / RESULTS_NAME).exists():
        results = read_results(output)
        return results | _push(config, results, _claim(config))
    source = make_source(config, tuning)
    arguments = training_arguments(config, recipe, selection=source.selection, keeps_model=source.keeps_model)
    repo_id = _claim(config)
    check_login(config.report_to or (), option="--report-to")
    make_output(output)
    row = _row(config, _resolve(config, recipe, tuning, config.dtype), source, membership)
    with (
        holding(output),
        recording(config.ledger, row, output, resume=config.resume, device=arguments.device) as record,
    ):
        results = _run(config, recipe, tuning, source, arguments, callbacks, record)
    return results | _push(config, results, repo_id)


def _claim(config: TrainConfig) -> str | None:
    """Make sure that the run can be pushed where it is to be."""
    return claim_repo(config.hub_repo, private=config.hub_private_repo or None) if config.hub_repo else None


def _push(config: TrainConfig, results: dict[str, Any], repo_id: str | None) -> dict[str, str]:
    """Upload a finished run, if it is to be, and return where it is then."""
    if repo_id is None:
        return {}
    files = published_files(Path(config.output), (JOURNAL_NAME, RUN_NAME, CONFIG_NAME))
    message = f"{results['task']}, {results['method']}, {results['steps']} steps of foretune"
    try:
        upload(repo_id, files, message=message)
    except HubError as error:
        raise HubError(f"{error} The run is finished; the same command with --resume pushes it.") from error
    return {"pushed_to": url_of(repo_id)}


def _run(
    config: TrainConfig,
    recipe: AbstractRecipe,
    tuning: AbstractTuning,
    source: AbstractSource,
    arguments: RunArguments,
    callbacks: Sequence[TrainerCallback],
    record: Recording,
) -> dict[str, Any]:
    """Load, train and evaluate, with everything checked."""
    output = Path(config.output)
    loaded = source.load(tuning)
    resolved = _resolve(config, recipe, tuning, loaded.dtype)
    data_hash = _hash_rows(loaded.rows, loaded.dev)
    trainer = _make_trainer(config, arguments, loaded, resolved, data_hash, callbacks)
    trainer.create_optimizer()  # refuses what cannot work on this model, before anything is evaluated
    if config.resume:
        trainer.check_begun()
    (output / CONFIG_NAME).write_text(yaml.safe_dump(resolved, sort_keys=False))
    record.note(config=jsonable(resolved), data_hash=data_hash)
    zero_shot = loaded.score(loaded.test, loaded.base)  # with LoRA the base holds an adapter that adds nothing yet
    record.note(metrics=numbers({"zero_shot": zero_shot, "majority": source.majority}))
    clock = StepClock(lambda step: trainer.repeats_step or bool(config.diagnostics and step % config.diagnostics == 0))
    trainer.add_callback(clock)
    trainer.add_callback(record.watch(trainer))
    trainer.train(resume_from_checkpoint=config.resume)
    if source.keeps_model:
        with writing(output / FINAL_NAME):
            trainer.save_model(str(output / FINAL_NAME))
    results: dict[str, Any] = {
        "task": source.name,
        "objective": source.objective,
        "data": source.describe(),
        "method": recipe.describe()["name"],
        "tuning": tuning.name,
        "model": config.model,
        "steps": config.steps,
        "seed": config.seed,
        **loaded.describe(),
        "metrics": {
            "zero_shot": zero_shot,
            "final": loaded.score(loaded.test),
            "majority": source.majority,
            "overlap": _overlap(loaded.dev, loaded.test),
        },
        "final_model": _selection(config, trainer, loaded) if source.keeps_model else None,
        "seconds_per_step": clock.seconds_per_step,
        "state_bytes": trainer.state_bytes,
        "peak_memory_bytes": peak_memory_bytes(arguments.device),
        "engine": trainer.engine_name,
        "rollbacks": [asdict(record) for record in trainer.rollbacks],
        "config": resolved,
    }
    try:
        if source.keeps_model:
            _write_cards(config, recipe, tuning, trainer, results, datasets=source.hub_datasets, rows_hash=data_hash)
        record.finish(results)
    finally:  # the mark of a finished run comes last: one that is killed before it is resumed, and its row with it
        write_results(output, results)
    trainer.track({f"test_{name}": value for name, value in results["metrics"]["final"].items()})
    trainer.end_tracking()
    return results


def _write_cards(
    config: TrainConfig,
    recipe: AbstractRecipe,
    tuning: AbstractTuning,
    trainer: ZOTrainer | SnapshotTrainer,
    results: dict[str, Any],
    **facts: Any,
) -> None:
    """Write the model card beside the run's files and beside its final model."""
    output = Path(config.output)
    facts["weights_hash"] = trainer.base_weights_hash
    card = run_card(config, recipe, tuning, trainer.model, results, **facts)
    for folder in (output, output / FINAL_NAME):
        save_card(card, folder)


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return every setting of a run as it takes effect, as far as it is known before the model is loaded.

    Raises:
        UsageError: an unknown method, scheme or part, or settings that cannot work.
    """
    tuning = make_tuning(config.tuning)
    recipe = make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=tuning.name)
    return jsonable(_resolve(config, recipe, tuning, config.dtype))


def _row(config: TrainConfig, settings: dict[str, Any], source: AbstractSource, membership: Membership) -> Run:
    """Return what the ledger says of a run that begins."""
    return Run(
        id="",
        name=Path(config.output).absolute().name,
        method=settings["method"]["name"],
        task=source.name,
        tuning=settings["tuning"]["name"],
        model=config.model,
        seed=config.seed,
        train_set_seed=config.train_set_seed,
        config=jsonable(settings),
        total_steps=config.steps,
        **asdict(membership),
    )


def _make_trainer(
    config: TrainConfig,
    arguments: RunArguments,
    loaded: Loaded,
    resolved: dict[str, Any],
    data_hash: str,
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
            "rows_hash": data_hash,
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


def _selection(config: TrainConfig, trainer: ZOTrainer | SnapshotTrainer, loaded: Loaded) -> dict[str, Any]:
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
    for shared in ("lr", "zo_eps", "num_directions", *AXES, *_BESIDE):
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


def _overlap(dev: Sequence[Any], test: Sequence[Any]) -> dict[str, float]:
    """Return the share of dev rows that are test rows as well; nothing where there is none, as there should be."""
    tested = {_content(row) for row in test}
    shared = sum(_content(row) in tested for row in dev)
    return {"dev_test": shared / len(dev)} if shared else {}


def _hash_rows(*parts: Sequence[Any]) -> str:
    """Return a digest of all rows, in order, but for their names."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            digest.update(_content(row).encode())
        digest.update(b"|")
    return digest.hexdigest()


def _content(row: Any) -> str:
    return repr({field.name: getattr(row, field.name) for field in fields(row) if field.name != "name"})
