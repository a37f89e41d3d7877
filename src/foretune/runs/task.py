"""The task of a run: a built-in one, or one of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foretune.data.own import LOSS, OWN_KEYS, OwnTask, make_own_task, make_spec, read_task_file
from foretune.errors import UsageError
from foretune.evaluation import TextMetric, find_metric
from foretune.runs.config import ModelConfig
from foretune.tasks.base import TASKS, Task

_SUFFIXES = (".yaml", ".yml")
_TEXTS = ("prompt", "completion", "label_words", "candidates")


def task_of(config: ModelConfig) -> Task:
    r"""Return the task that `config` names or describes.

    In texts of the command line ``\n`` is a newline, which a shell would not make of it.

    Raises:
        UsageError: an unknown task, a wrong task file, or options that make no task; nothing was loaded yet.
    """
    given = {key: getattr(config, key) for key in OWN_KEYS if getattr(config, key) is not None}
    if config.task.endswith(_SUFFIXES):
        _refuse(given, f"with the task file {config.task}; write it into the file")
        spec = read_task_file(_existing(config.task))
    elif config.task:
        _refuse(given, f"with --task {config.task}; own rows need no --task")
        return TASKS.get(config.task)
    else:
        spec = make_spec(given | {key: _with_newlines(given[key]) for key in _TEXTS if key in given})
    if config.data_dir is not None:
        raise UsageError(f"--data-dir would have no effect: the rows are those of {spec.option('data')} {spec.data}.")
    _check_metric(spec)
    return make_own_task(spec)


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise UsageError(f"--task {name}: there is no such file.")
    return Path(name)


def _refuse(given: dict[str, Any], why: str) -> None:
    for key in given:
        raise UsageError(f"--{key.replace('_', '-')} would have no effect {why}.")


def _with_newlines(value: str | list[str]) -> Any:
    return value.replace("\\n", "\n") if isinstance(value, str) else [text.replace("\\n", "\n") for text in value]


def _check_metric(spec: OwnTask) -> None:
    if spec.metric is None or spec.metric == LOSS:
        return
    option = spec.option("metric")
    if not isinstance(find_metric(spec.metric, option=option), TextMetric):
        raise UsageError(f"{option} {spec.metric} is of candidates; for texts: f1, exact_match, rouge_l or loss.")
