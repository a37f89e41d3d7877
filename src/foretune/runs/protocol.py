"""How a task is encoded, trained on and scored with one kind of model."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from foretune.adapters import check_positions
from foretune.data import TaskRow
from foretune.errors import UsageError
from foretune.evaluation import (
    CandidateMetric,
    CandidateMetricObjective,
    EvaluationResult,
    TextMetric,
    TextMetricObjective,
    TextWriter,
    evaluate_candidates,
    find_metric,
)
from foretune.objectives import (
    ClassificationObjective,
    EncodedExample,
    LMObjective,
    encode_examples,
    usable_length,
)
from foretune.objectives.masked import MaskedObjective
from foretune.objectives.masked_encoding import EncodedMaskedExample, encode_masked, usable_masked_length
from foretune.objectives.masked_head import find_masked_head
from foretune.runs.config import ModelConfig
from foretune.runs.loading import ModelKind
from foretune.tasks import Example, GenerationTask, Row, Task, Template
from foretune.tasks.masked import MaskedTemplate
from foretune.tasks.prompts import with_demonstrations

LIKELIHOODS = ("classification", "lm")
"""Objectives with a gradient."""


@dataclass(frozen=True, slots=True)
class ObjectiveChoice:
    """The objective of a run, checked against the task.

    Args:
        name: ``classification``, ``lm``, the name of a metric, or a function of the user's.
        metric: What is to grow, where the objective is a metric.
    """

    name: str
    metric: CandidateMetric | TextMetric | None = None


def choose_objective(task: Task, name: str | None, kind: ModelKind = "causal") -> ObjectiveChoice:
    """Return the objective called `name`, the usual one of the task and the kind of model for None.

    Raises:
        UsageError: there is none, or it makes no sense for the task or the model.
    """
    option = "--objective" if name is not None else "--metric"  # an objective of one's own task is its metric
    if name is None:
        name = task.objective if kind == "causal" else "classification"
    if name == "lm" and kind == "masked":
        raise UsageError(
            "--objective lm: a masked language model has one word to fill in; use classification or accuracy."
        )
    is_text = isinstance(task, GenerationTask)
    if name in LIKELIHOODS:
        if name == "classification" and is_text:
            raise UsageError(
                f"--objective classification: task {task.name!r} is answered by free text and has no candidates; "
                "use lm, or a metric of texts such as f1."
            )
        return ObjectiveChoice(name)
    metric = find_metric(name, option=option)
    if isinstance(metric, TextMetric) and not is_text:
        raise UsageError(
            f"--objective {name} is of generated texts, and task {task.name!r} chooses among candidates; "
            "use accuracy, classification or lm."
        )
    if isinstance(metric, CandidateMetric) and is_text:
        raise UsageError(
            f"--objective {name} is of candidates, and task {task.name!r} is answered by free text; "
            "use lm, or a metric of texts such as f1."
        )
    if isinstance(task, GenerationTask) and not task.max_new_tokens:
        raise UsageError(
            f"--objective {name} is of generated texts, and task {task.name!r} generates none: its metric is the loss. "
            "Use lm, or give the task another metric."
        )
    return ObjectiveChoice(name, metric)


class AbstractProtocol(ABC):
    """A task's protocol with one kind of model.

    Attributes:
        selection: The dev figure that chooses the final model, and whether larger is better.
    """

    selection: ClassVar[tuple[str, bool]]

    @abstractmethod
    def encode(self, rows: Sequence[TaskRow]) -> list[Any]:
        """Return rows as token ids."""

    @abstractmethod
    def objective(self, model: nn.Module) -> Any:
        """Return the training objective for a model."""

    @abstractmethod
    def evaluate(self, model: nn.Module, rows: Sequence[Any], *, only_loss: bool = False) -> EvaluationResult:
        """Score a model on encoded rows; `only_loss` leaves out what costs far more than a forward."""


@dataclass(frozen=True, kw_only=True)
class AbstractTaskProtocol(AbstractProtocol):
    """A protocol that reads the rows of a task with a tokenizer and scores candidates.

    Args:
        task: The task.
        choice: The objective.
        tokenizer: The model's.
        max_length: Most tokens of a sequence.
        batch_size: Rows of a batch in evaluations.
    """

    task: Task
    choice: ObjectiveChoice
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    batch_size: int
    _scorers: dict[nn.Module, Any] = field(default_factory=dict, init=False, repr=False)

    @abstractmethod
    def _make_scorer(self, model: nn.Module) -> Any:
        """Return the objective that scores candidates, with the shortcuts that hold for this model."""

    def _scorer(self, model: nn.Module) -> Any:
        """Return the scorer made for a model, which takes a few tiny forwards the first time."""
        if model not in self._scorers:
            self._scorers[model] = self._make_scorer(model)
        return self._scorers[model]

    def objective(self, model: nn.Module) -> Any:
        """Return the training objective for a model."""
        if isinstance(self.choice.metric, CandidateMetric):
            return CandidateMetricObjective(self.choice.metric, self._scorer(model))
        return self._scorer(model)

    def _with_loss(self, result: EvaluationResult) -> EvaluationResult:
        """Put the metric's loss in place of the likelihood's, where a metric is trained on."""
        metric = self.choice.metric
        return result if metric is None else replace(result, loss=-result.metrics[metric.name])


@dataclass(frozen=True, kw_only=True)
class CausalProtocol(AbstractTaskProtocol):
    """Prompts and options for a causal language model.

    Args:
        template: Prompt version, None for the task's own; further arguments as `AbstractTaskProtocol`.
    """

    template: str | None

    selection: ClassVar[tuple[str, bool]] = ("eval_loss", False)
    """As in the published runs of large models."""

    def encode(
        self, rows: Sequence[TaskRow], demonstrations: Sequence[Sequence[str]] | None = None
    ) -> list[EncodedExample]:
        """Write rows with the template, each behind its own demonstrations, and tokenize them."""
        return encode_examples(self._write(self.task.example, rows, demonstrations), self.tokenizer, self._text_length)

    def encode_calibration(
        self, rows: Sequence[TaskRow], demonstrations: Sequence[Sequence[str]] | None = None
    ) -> list[EncodedExample]:
        """Do the same with the rows' candidates after a prompt that says nothing of the row."""
        written = self._write(self.task.calibration, rows, demonstrations)
        return encode_examples(written, self.tokenizer, self._text_length)

    def surplus(self, rows: Sequence[TaskRow], demonstrations: Sequence[Sequence[str]] | None = None) -> list[int]:
        """Return by how many tokens each row would be too long; 0 or less where it fits."""
        uncut = encode_examples(self._write(self.task.example, rows, demonstrations), self.tokenizer, sys.maxsize)
        return [row.length - self._text_length for row in uncut]

    def objective(self, model: nn.Module) -> Any:
        """Return the training objective for a model."""
        if isinstance(self.choice.metric, TextMetric):
            return TextMetricObjective(self.choice.metric, self._writer)
        return LMObjective.for_model(model) if self.choice.name == "lm" else super().objective(model)

    def evaluate(
        self,
        model: nn.Module,
        rows: Sequence[EncodedExample],
        *,
        only_loss: bool = False,
        calibration: Sequence[EncodedExample] | None = None,
    ) -> EvaluationResult:
        """Score a model on encoded rows; of free text, `only_loss` generates nothing unless the loss is a metric.

        With `calibration`, see `evaluate_candidates`.
        """
        is_text = isinstance(self.task, GenerationTask)
        loss: Literal["classification", "lm"] = "classification" if self.choice.name == "classification" else "lm"
        result = evaluate_candidates(
            model, rows, self._scorer(model), loss=loss, calibration=calibration, batch_size=self.batch_size
        )
        if is_text:
            result = self._write_texts(model, rows, result.loss, only_loss)
        return self._with_loss(result)

    def _make_scorer(self, model: nn.Module) -> ClassificationObjective:
        return ClassificationObjective.for_model(model)

    def _write(
        self,
        write: Callable[[Row, Template, str], Example],
        rows: Sequence[TaskRow],
        demonstrations: Sequence[Sequence[str]] | None,
    ) -> list[Example]:
        template = self.task.bind(self.tokenizer).template(self.template)
        examples = [write(row.row, template, row.name) for row in rows]
        if demonstrations is None:
            return examples
        return [with_demonstrations(example, texts) for example, texts in zip(examples, demonstrations, strict=True)]

    def _write_texts(
        self, model: nn.Module, rows: Sequence[EncodedExample], loss: float, only_loss: bool
    ) -> EvaluationResult:
        assert isinstance(self.task, GenerationTask)
        metric = self.choice.metric
        if metric is None and (only_loss or not self.task.max_new_tokens):
            return EvaluationResult({}, loss, len(rows))
        texts = self._writer.write(model, rows)
        first = metric or find_metric(self.task.metric, option="--metric")
        assert isinstance(first, TextMetric)
        return EvaluationResult(self._writer.measure(texts, rows, first), loss, len(rows), tuple(texts))

    @property
    def _writer(self) -> TextWriter:
        assert isinstance(self.task, GenerationTask)
        return TextWriter(
            tokenizer=self.tokenizer,
            max_new_tokens=self.task.max_new_tokens,
            stops_at_newline=self.task.stops_at_newline,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    @property
    def _text_length(self) -> int:
        """Tokens that a prompt may have, with its target: room for the generated text is kept, as published."""
        if not isinstance(self.task, GenerationTask):
            return self.max_length
        room = self.max_length - self.task.max_new_tokens
        if room < 2:
            raise UsageError(
                f"At most {self.max_length} tokens fit, by --max-length or the model's positions, and task "
                f"{self.task.name!r} generates up to {self.task.max_new_tokens}, which leaves no room for a prompt."
            )
        return room


@dataclass(frozen=True, kw_only=True)
class MaskedProtocol(AbstractTaskProtocol):
    """A prompt with one mask for a masked language model; arguments as `AbstractTaskProtocol`."""

    selection: ClassVar[tuple[str, bool]] = ("eval_accuracy", True)
    """As in the published few-shot runs."""

    def encode(self, rows: Sequence[TaskRow]) -> list[EncodedMaskedExample]:
        """Write rows around a mask and tokenize them piece by piece."""
        template = masked_template(self.task)
        examples = [template.example(row.row, row.name) for row in rows]
        return encode_masked(examples, self.tokenizer, self.max_length)

    def evaluate(
        self, model: nn.Module, rows: Sequence[EncodedMaskedExample], *, only_loss: bool = False
    ) -> EvaluationResult:
        """Score a model on encoded rows."""
        return self._with_loss(evaluate_candidates(model, rows, self._scorer(model), batch_size=self.batch_size))

    def _make_scorer(self, model: nn.Module) -> MaskedObjective:
        return MaskedObjective(find_masked_head(model))


PROTOCOLS: dict[ModelKind, type[AbstractProtocol]] = {"causal": CausalProtocol, "masked": MaskedProtocol}


def masked_template(task: Task) -> MaskedTemplate:
    """Return the task's prompt for masked language models.

    Raises:
        UsageError: it has none.
    """
    if task.masked is None:
        raise UsageError(
            f"Task {task.name!r} has no prompt for masked language models; give --model a causal one, such as "
            "facebook/opt-1.3b."
        )
    return task.masked


def check_prompt(task: Task, kind: ModelKind, template: str | None) -> None:
    """Refuse a task without a prompt for this kind of model, before the model is loaded.

    Raises:
        UsageError: there is none, or none of that version.
    """
    if kind == "causal":
        task.template(template)
        return
    masked_template(task)
    if template is not None:
        raise UsageError(
            f"--template {template}: the prompt of task {task.name!r} for masked language models has one version; "
            "leave the option out."
        )


def make_protocol(
    config: ModelConfig,
    task: Task,
    choice: ObjectiveChoice,
    kind: ModelKind,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
) -> AbstractTaskProtocol:
    """Return the protocol of a task with a model that is loaded.

    Raises:
        UsageError: the tokenizer is another model's.
    """
    _check_vocabulary(config.model, model, tokenizer)
    usable = usable_masked_length if kind == "masked" else usable_length
    return _protocol(config, task, choice, kind, tokenizer, usable(model, config.max_length))


def expected_protocol(
    config: ModelConfig,
    task: Task,
    choice: ObjectiveChoice,
    kind: ModelKind,
    of_model: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_virtual_tokens: int,
) -> AbstractTaskProtocol:
    """Return what `make_protocol` will in all likelihood, by the model's configuration, before it is loaded.

    Raises:
        IncompatibleError: virtual tokens leave no room for a text.
    """
    check_positions(of_model, num_virtual_tokens)
    positions = getattr(of_model, "max_position_embeddings", None)
    length = min(config.max_length, positions - num_virtual_tokens) if positions else config.max_length
    return _protocol(config, task, choice, kind, tokenizer, length)


def _protocol(
    config: ModelConfig,
    task: Task,
    choice: ObjectiveChoice,
    kind: ModelKind,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> AbstractTaskProtocol:
    shared: dict[str, Any] = {"task": task, "choice": choice, "tokenizer": tokenizer}
    shared["batch_size"] = config.eval_batch_size
    if kind == "masked":
        return MaskedProtocol(**shared, max_length=min(max_length, masked_template(task).max_length))
    return CausalProtocol(**shared, template=config.template, max_length=max_length)


def _check_vocabulary(name: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with words that the model has no embedding for; special tokens may go unused."""
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids)
    highest = max(token_id for token_id in tokenizer.get_vocab().values() if token_id not in special)
    if highest >= num_embeddings:
        raise UsageError(
            f"--model {name}: its tokenizer has ids up to {highest} and the model {num_embeddings} embeddings; "
            "one of them is of another model, or tokens were added and the embeddings not resized."
        )
