"""One training run, from rows and a base model to a folder with the tuned model and its figures."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from foretune.adapters import AbstractTuning, make_tuning
from foretune.composition import AXES
from foretune.errors import UsageError
from foretune.evaluation import evaluate_classification
from foretune.journal import check_header
from foretune.methods import AbstractMethod, make_method
from foretune.objectives import ClassificationObjective, EncodedExample, encode_examples, find_tied_head, usable_length
from foretune.runs.config import TrainConfig
from foretune.runs.loading import check_model_path, load_model, load_tokenizer, resolve_device, resolve_dtype
from foretune.tasks import load_task_data
from foretune.trainer import ZOTrainer, ZOTrainingArguments
from foretune.trainer.trainer import JOURNAL_NAME

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.json"
CONFIG_NAME = "config.yaml"
FINAL_NAME = "final"
SELECTION_METRIC = "eval_loss"
"""The dev metric whose best evaluation gives the final model, as in the published large-model runs."""

# settings that may change between the parts of an interrupted run: the journal's hashes cover model and rows
_FREE_ON_RESUME = {
    "model",
    "revision",
    "data_dir",
    "output",
    "resume",
    "eval_batch_size",
    "trust_remote_code",
    "device",
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
    method = make_method(config.method["name"], config.method_options, total_steps=config.steps, tuning=tuning.name)
    _warn_of_defaults(config, method, tuning)
    output = Path(config.output)
    _check_output(output, config.resume)
    finished = output / RESULTS_NAME
    if config.resume and finished.exists():
        results = json.loads(finished.read_text())
        undecided = {"dtype"} if config.dtype == "auto" else set()
        check_header(
            results["config"], _resolve(config, method, tuning, config.dtype), ignore=(*_FREE_ON_RESUME, *undecided)
        )
        return results
    check_model_path(config.model)
    data = load_task_data(
        config.task,
        config.data_dir,
        num_train=config.num_train,
        num_dev=config.num_dev,
        num_eval=config.num_eval,
        train_set_seed=config.train_set_seed,
        template=config.template,
    )
    arguments = _arguments(config, method, has_dev=bool(data.dev))
    _make_output(output)

    device = resolve_device(config.device)
    tokenizer = load_tokenizer(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    base = load_model(
        config.model,
        dtype=resolve_dtype(config.dtype, device),
        device=device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    model = tuning.attach(base, seed=config.seed, revision=config.revision)
    length = usable_length(model, config.max_length)
    rows, dev, test = (encode_examples(part, tokenizer, length) for part in (data.train, data.dev, data.evaluation))
    dtype = str(model.dtype).removeprefix("torch.")

    def score(examples: Sequence[EncodedExample], candidate: nn.Module = model) -> dict[str, float]:
        result = evaluate_classification(candidate, examples, batch_size=config.eval_batch_size)
        return {"accuracy": result.accuracy, "loss": result.loss}

    resolved = _resolve(config, method, tuning, dtype)
    (output / CONFIG_NAME).write_text(yaml.safe_dump(resolved, sort_keys=False))
    zero_shot = score(test, base)  # with LoRA the base holds an adapter that adds nothing yet
    objective = ClassificationObjective(find_tied_head(model))
    clock = _StepClock(lambda: trainer.repeats_step)
    trainer = ZOTrainer(
        model,
        arguments,
        objective=objective,
        evaluator=lambda candidate: score(dev, candidate),
        run_info={
            "origin": {"model": config.model, "revision": config.revision, "dtype": dtype},
            "selection_metric": SELECTION_METRIC if data.dev else None,
            "rows_hash": _hash_rows(rows, dev),
            "config": {name: value for name, value in resolved.items() if name not in _FREE_ON_RESUME},
        },
        train_dataset=rows,
        eval_dataset=dev or None,
        data_collator=objective.collate,
        processing_class=tokenizer,
        callbacks=[clock, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=config.resume)
    final_step = (data.dev and trainer.state.best_global_step) or config.steps
    trainer.save_model(str(output / FINAL_NAME))
    results = {
        "task": data.task.name,
        "method": method.describe()["name"],
        "tuning": tuning.name,
        "num_trainable_parameters": sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad),
        "model": config.model,
        "steps": config.steps,
        "seed": config.seed,
        "dtype": dtype,
        "metrics": {
            "zero_shot": zero_shot,
            "final": score(test),
            "majority": {"accuracy": data.majority_accuracy},
        },
        "final_model": {
            "step": final_step,
            "selected_by": f"best dev {SELECTION_METRIC.removeprefix('eval_')}"
            if data.dev
            else "last step (no dev rows)",
        },
        "seconds_per_step": clock.seconds_per_step,
        "peak_memory_bytes": _peak_memory_bytes(device),
        "engine": trainer.zo_optimizer.engine_name,
        "num_rows": {"train": len(rows), "dev": len(dev), "eval": len(test)},
        "config": resolved,
    }
    temporary = output / f".{RESULTS_NAME}.tmp"
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(finished)
    return results


def _resolve(config: TrainConfig, method: AbstractMethod, tuning: AbstractTuning, dtype: str) -> dict[str, Any]:
    """Return every setting as it takes effect; the options a method shares stand under `method` only."""
    resolved = {
        **asdict(config),
        "method": method.describe(),
        "tuning": tuning.describe(),
        "eval_steps": config.resolved_eval_steps,
        "dtype": dtype,
    }
    for shared in ("lr", "zo_eps", "num_directions", *AXES):
        del resolved[shared]
    return resolved


def _warn_of_defaults(config: TrainConfig, method: AbstractMethod, tuning: AbstractTuning) -> None:
    """Say that a learning rate is that of full tuning: adapters need one 100 to 10,000 times larger."""
    published = "full" not in method.schemes or tuning.name in {"full", *method.tuning_defaults}
    if not published and "lr" not in config.method_options:
        logger.warning(
            "No lr is known for --method %s with --tuning %s; %g is that of full tuning and likely far too small.",
            config.method["name"],
            tuning.name,
            method.lr,
        )


def _arguments(config: TrainConfig, method: AbstractMethod, *, has_dev: bool) -> ZOTrainingArguments:
    settings = method.describe()
    every = config.resolved_eval_steps
    return ZOTrainingArguments(
        output_dir=config.output,
        method=settings.pop("name"),
        learning_rate=settings.pop("lr"),
        method_options=settings,
        engine=config.engine,
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        seed=config.seed,
        logging_steps=config.log_steps,
        eval_strategy="steps" if has_dev else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=has_dev,
        metric_for_best_model=SELECTION_METRIC if has_dev else None,
        greater_is_better=False if has_dev else None,
        use_cpu=resolve_device(config.device).type == "cpu",
        dataloader_pin_memory=config.device != "cpu" and torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _check_output(output: Path, resume: bool) -> None:
    """Refuse an output folder that holds another run, or that cannot be written.

    Raises:
        UsageError: naming the folder and what would be right.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give a folder.")
    taken = [name for name in (JOURNAL_NAME, RESULTS_NAME) if (output / name).exists()]
    if taken and not resume:
        raise UsageError(f"--output {output} holds a run already ({taken[0]}): add --resume or choose another folder.")
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--output {output}: {existing} is not writable.")


def _make_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be made: {error.strerror}.") from error


def _hash_rows(*parts: Sequence[EncodedExample]) -> str:
    """Return a digest of the token ids and answers of all rows, in order."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            digest.update(repr((row.token_ids, row.option_lengths, row.correct)).encode())
        digest.update(b"|")
    return digest.hexdigest()


def _peak_memory_bytes(device: torch.device) -> int:
    """Most memory the run has held: of the GPU, or of the process on a CPU (Linux counts it in KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _StepClock(TrainerCallback):
    """Times the steps that are measured, without evaluations and checkpoints.

    The first one, which chooses the engine, is left out, and so are steps that a resumed run takes from its journal.
    """

    def __init__(self, is_repeated: Callable[[], bool]) -> None:
        self._is_repeated = is_repeated
        self._durations: list[float] = []
        self._start = 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of a step; None if too few were made."""
        counted = self._durations[1:]
        return sum(counted) / len(counted) if counted else None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._is_repeated():
            self._durations.append(time.perf_counter() - self._start)
