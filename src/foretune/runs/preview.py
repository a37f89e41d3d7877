"""One row of a task as a model reads it: what a user looks at before training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from foretune.data import TaskRow
from foretune.data.loading import Split, load_split
from foretune.errors import UsageError
from foretune.runs.config import ModelConfig
from foretune.runs.loading import load_config, load_tokenizer, model_kind
from foretune.runs.protocol import CausalProtocol, MaskedProtocol, choose_objective, masked_template
from foretune.runs.task import task_of
from foretune.tasks import GenerationTask, Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class PreviewConfig:
    """`foretune tasks`: what is shown."""

    name: str | None = _option(None, "Task to show, or a YAML file that describes one; default: list all.")
    model: str | None = _option(None, "Model (folder or hub id) whose tokenizer is used; default: text alone.")
    revision: str | None = _option(None, "Revision of a hub model.")
    trust_remote_code: bool = _option(False, "Run code that the model's repository ships.")
    data_dir: str | None = _option(None, "Folder with <task>/{train,validation}.jsonl; default: the hub.")
    template: str | None = _option(None, "Prompt version of the task; default: the task's.")
    row: int = _option(0, "Row of the training split, from 0; one without an answer is passed over.")
    max_length: int = _option(ModelConfig.max_length, "Most tokens of a sequence.")

    def check(self) -> None:
        """Refuse options that would have no effect, and values out of range.

        Raises:
            UsageError: naming the option.
        """
        plain = type(self)()
        for name, needed in (
            ("name", ("model", "data_dir", "template", "row")),
            ("model", ("revision", "trust_remote_code", "max_length")),
        ):
            for option in needed:
                if getattr(self, name) is None and (value := getattr(self, option)) != getattr(plain, option):
                    what = "the name of a task" if name == "name" else "--model"
                    raise UsageError(f"--{option.replace('_', '-')} {value} has no effect without {what}.")
        for option, least in (("row", 0), ("max_length", 2)):
            if (value := getattr(self, option)) < least:
                raise UsageError(f"--{option.replace('_', '-')} must be at least {least}, got {value}.")


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One sequence as the spellings of its tokens in the vocabulary.

    Args:
        before: What the scored tokens follow.
        scored: The tokens whose log-probabilities are read: of the option, or the mask.
        after: What follows a mask.
    """

    before: tuple[str, ...]
    scored: tuple[str, ...]
    after: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.before) + len(self.scored) + len(self.after)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """One row of a task, written and tokenized.

    Args:
        task: The task.
        template: The prompt version, or ``masked``.
        row_name, origin: Which row it is, and of what file or hub dataset.
        objective: What the task is trained with.
        prompt: The text, up to the option or around the mask.
        candidates: What follows it, or may stand at the mask.
        correct: Indices of the right ones.
        answers: Reference texts of free text.
        calibration: The prompt that says nothing of the row, and what follows it; None where there is none.
        shortened: The part of the prompt that is cut first.
        sequences: One for each candidate, one with a mask; empty without a model.
        max_length: Most tokens, None without a model.
        num_cut: Tokens that did not fit.
    """

    task: Task
    template: str
    row_name: str
    origin: str
    objective: str
    prompt: str
    candidates: tuple[str, ...]
    correct: tuple[int, ...]
    answers: tuple[str, ...] = ()
    calibration: tuple[str, tuple[str, ...]] | None = None
    shortened: str | None = None
    sequences: tuple[TokenSequence, ...] = ()
    max_length: int | None = None
    num_cut: int = 0


def preview(config: PreviewConfig) -> Preview:
    """Write one training row of a task, and tokenize it as training does where a model is named; none is loaded.

    Raises:
        UsageError: an option is wrong, there is no such task or template, the rows cannot be read, or the task has no
            prompt for this kind of model.
        IncompatibleError: the tokenizer lacks what the prompt needs.
    """
    config.check()
    task = task_of(ModelConfig(task=config.name or "", data_dir=config.data_dir))
    if config.model is None:
        if task.template_for is not None:
            raise UsageError(f"Task {task.name!r} is written with the model's chat template: give --model.")
        row, origin = _read(task, config)
        return _masked(task, row, origin, config) if not task.templates else _causal(task, row, origin, config)
    loading: dict[str, Any] = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    of_model = load_config(config.model, **loading)
    is_masked = model_kind(of_model) == "masked"
    masked_template(task) if is_masked else task.template(config.template)  # refused before rows are read
    row, origin = _read(task, config)
    tokenizer = load_tokenizer(config.model, **loading)
    if is_masked:
        return _tokenize_masked(_masked(task, row, origin, config), row, tokenizer, _length(of_model, config))
    shown = _causal(task.bind(tokenizer), row, origin, config)
    return _tokenize_causal(shown, row, tokenizer, _length(of_model, config))


def _length(of_model: PreTrainedConfig, config: PreviewConfig) -> int:
    return min(config.max_length, getattr(of_model, "max_position_embeddings", None) or config.max_length)


def _read(task: Task, config: PreviewConfig) -> tuple[TaskRow, str]:
    """Return the row asked for, or the next one that has an answer."""
    split: Split = load_split(task, task.train_split, config.data_dir)
    for index in range(config.row, len(split)):
        if task.is_usable(row := split[index]):
            return TaskRow(row, f"{task.name} {split.name} row {index}"), split.origin
    raise UsageError(
        f"--row {config.row}: {split.origin} has {len(split)} rows, and none with an answer from there on."
    )


def _causal(task: Task, row: TaskRow, origin: str, config: PreviewConfig) -> Preview:
    version = config.template or task.default_template
    template = task.template(version)
    example = task.example(row.row, template, row.name)
    calibration = None
    if not isinstance(task, GenerationTask) and template.sfc_prompt is not None:
        calibrating = task.calibration(row.row, template, row.name)
        calibration = (calibrating.prompt, calibrating.candidates)
    return Preview(
        task=task,
        template=version,
        row_name=row.name,
        origin=origin,
        objective=task.objective,
        prompt=example.prompt,
        candidates=example.candidates,
        correct=example.correct,
        answers=example.answers,
        calibration=calibration,
        shortened=example.prompt[slice(*example.shortened)] if example.shortened else None,
    )


def _masked(task: Task, row: TaskRow, origin: str, config: PreviewConfig) -> Preview:
    if config.template is not None:
        raise UsageError(f"--template {config.template}: there is one prompt for masked language models; leave it out.")
    example = masked_template(task).example(row.row, row.name)
    return Preview(
        task=task,
        template="masked",
        row_name=row.name,
        origin=origin,
        objective="classification",
        prompt=example.text(),
        candidates=example.label_words,
        correct=example.correct,
    )


def _tokenize_causal(shown: Preview, row: TaskRow, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Preview:
    protocol = CausalProtocol(
        task=shown.task,
        template=shown.template,
        choice=choose_objective(shown.task, None),
        tokenizer=tokenizer,
        max_length=max_length,
        batch_size=1,
    )
    encoded = protocol.encode([row])[0]
    sequences = []
    for ids, num_option in zip(encoded.token_ids, encoded.option_lengths, strict=True):
        tokens = _spelled(tokenizer, ids)
        sequences.append(TokenSequence(tokens[:-num_option], tokens[-num_option:]))
    return replace(shown, sequences=tuple(sequences), max_length=max_length, num_cut=encoded.num_cut)


def _tokenize_masked(shown: Preview, row: TaskRow, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Preview:
    max_length = min(max_length, masked_template(shown.task).max_length)
    choice = choose_objective(shown.task, "classification")
    protocol = MaskedProtocol(task=shown.task, choice=choice, tokenizer=tokenizer, max_length=max_length, batch_size=1)
    encoded = protocol.encode([row])[0]
    tokens, mask = _spelled(tokenizer, encoded.token_ids), encoded.mask_position
    sequence = TokenSequence(tokens[:mask], tokens[mask : mask + 1], tokens[mask + 1 :])
    words = _spelled(tokenizer, encoded.label_ids)
    return replace(shown, candidates=words, sequences=(sequence,), max_length=max_length, num_cut=encoded.num_cut)


def _spelled(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
