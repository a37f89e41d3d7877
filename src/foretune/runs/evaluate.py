"""The accuracy of a model as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foretune.data import load_task_data
from foretune.evaluation import evaluate_classification
from foretune.objectives import encode_examples, usable_length
from foretune.runs.config import EvaluateConfig
from foretune.runs.loading import (
    check_model_path,
    is_adapter,
    load_adapter,
    load_model,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from foretune.runs.output import FINAL_NAME


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a model, an adapter or the final model of a run folder on the test rows of a task.

    Raises:
        UsageError: an option or an input file is wrong.
    """
    config.check()
    final = Path(config.model) / FINAL_NAME
    name = str(final) if final.is_dir() else config.model
    if not is_adapter(name):
        check_model_path(name)
    data = load_task_data(
        config.task,
        config.data_dir,
        num_train=0,
        num_dev=0,
        num_eval=config.num_eval,
        train_set_seed=config.train_set_seed,
    )
    examples = data.examples(data.evaluation, config.template)
    device = resolve_device(config.device)
    placing = {"dtype": resolve_dtype(config.dtype, device), "device": device}
    if is_adapter(name):
        model, tokenizer = load_adapter(name, trust_remote_code=config.trust_remote_code, **placing)
    else:
        loading = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        tokenizer = load_tokenizer(name, **loading)
        model = load_model(name, **placing, **loading)
    rows = encode_examples(examples, tokenizer, usable_length(model, config.max_length))
    result = evaluate_classification(model, rows, batch_size=config.eval_batch_size)
    results = {
        "task": data.task.name,
        "template": config.template or data.task.default_template,
        "model": name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_rows": result.num_rows,
        "metrics": {
            "model": {"accuracy": result.accuracy, "loss": result.loss},
            "majority": {"accuracy": data.majority_accuracy},
        },
    }
    if config.output:
        Path(config.output).write_text(json.dumps(results, indent=2) + "\n")
    return results
