"""What a run trains on: rows of a task or of random tokens, with the model that reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from foretune.adapters import AbstractTuning
from foretune.errors import UsageError
from foretune.evaluation import EvaluationResult
from foretune.objectives import EncodedExample, LMObjective, check_window
from foretune.runs.config import SYNTHETIC, TrainConfig
from foretune.runs.loading import (
    check_kind,
    load_config,
    load_model,
    load_tokenizer,
    model_kind,
    resolve_device,
    resolve_dtype,
)
from foretune.runs.protocol import (
    PROTOCOLS,
    AbstractProtocol,
    check_prompt,
    choose_objective,
    expected_protocol,
    make_protocol,
)
from foretune.runs.rows import load_rows
from foretune.runs.shapes import check_length, is_shape, load_shape, random_model, shape_dtype
from foretune.runs.synthetic import synthetic_rows
from foretune.runs.task import task_of
from foretune.runs.weight_files import check_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model and encoded rows.

    Attributes:
        model: What is tuned.
        base: The model without its adapter; `model` itself under full tuning.
        tokenizer: The model's; None where rows are made without one.
        protocol: How rows become losses and figures.
        rows, dev, test: Encoded rows.
    """

    model: nn.Module
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
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
        """Evaluate a model, the tuned one by default, on these rows; nothing is said without rows."""
        return self.protocol.evaluate(model or self.model, rows, only_loss=only_loss).figures if rows else {}

    def describe(self) -> dict[str, Any]:
        """Return what results.json says of model and rows."""
        return {
            "num_trainable_parameters": sum(t.numel() for t in self.model.parameters() if t.requires_grad),
            "dtype": self.dtype,
            "num_rows": {"train": len(self.rows), "dev": len(self.dev), "eval": len(self.test)},
        }


class AbstractSource(ABC):
    """What a run trains on, checked but not loaded.

    Attributes:
        name: The task.
        objective: What is trained on, as options spell it.
        selection: The dev figure that chooses the final model and whether larger is better; None without dev rows.
        majority: Figures of always giving the most frequent answer.
        hub_datasets: Ids of the hub datasets that the rows come from.
        keeps_model: Whether the tuned weights are worth keeping.
    """

    name: str
    objective: str
    selection: tuple[str, bool] | None
    majority: dict[str, float]
    hub_datasets: Sequence[str] = ()
    keeps_model: ClassVar[bool] = True

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return what a record of the run says of its rows."""

    @abstractmethod
    def load(self, tuning: AbstractTuning) -> Loaded:
        """Load the model, attach what is tuned; the rows are encoded."""


class TaskSource(AbstractSource):
    """Rows of a task, read from files or the hub, and encoded.

    Args:
        config: The run.
        tuning: What is tuned; virtual tokens take positions.
    Raises:
        UsageError: model, tokenizer, task, objective and rows do not fit together, or cannot be read.
        IncompatibleError: the tokenizer lacks what the prompts need.
    """

    def __init__(self, config: TrainConfig, tuning: AbstractTuning) -> None:
        self._config = config
        loading = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
        task = task_of(config)
        of_model = load_config(config.model, **loading)  # type: ignore[arg-type]
        self._kind = model_kind(of_model)
        check_prompt(task, self._kind, config.template)
        self._choice = choose_objective(task, config.objective, self._kind)
        self._data = load_rows(config, task, self._kind, num_train=config.num_train, num_dev=config.num_dev)
        self.name, self.objective = task.name, self._choice.name
        self.selection = PROTOCOLS[self._kind].selection if self._data.dev else None
        self.majority, self.hub_datasets = self._data.majority, self._data.hub_datasets
        check_weights(config.model)
        self._tokenizer = load_tokenizer(config.model, **loading)  # type: ignore[arg-type]
        expected = expected_protocol(
            config,
            task,
            self._choice,
            self._kind,
            of_model,
            self._tokenizer,
            num_virtual_tokens=getattr(tuning, "num_virtual_tokens", 0),
        )
        self._max_length, self._encoded = expected.max_length, self._encode(expected)

    def describe(self) -> dict[str, object]:
        """Return the origins of the rows."""
        return self._data.describe()

    def load(self, tuning: AbstractTuning) -> Loaded:
        """Load the model and attach what is tuned."""
        config = self._config
        device = resolve_device(config.device)
        base = load_model(
            config.model,
            dtype=resolve_dtype(config.dtype, device),
            device=device,
            kind=self._kind,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )
        model = tuning.attach(base, seed=config.seed, revision=config.revision)
        protocol = make_protocol(config, self._data.task, self._choice, self._kind, model, self._tokenizer)
        same = protocol.max_length == self._max_length
        rows, dev, test = self._encoded if same else self._encode(protocol)
        check_window(model, max(row.length for row in (*rows, *dev, *test)))
        return Loaded(
            model=model,
            base=base,
            tokenizer=self._tokenizer,
            protocol=protocol,
            rows=rows,
            dev=dev,
            test=test,
        )

    def _encode(self, protocol: AbstractProtocol) -> tuple[list[Any], list[Any], list[Any]]:
        data = self._data
        return protocol.encode(data.train), protocol.encode(data.dev), protocol.encode(data.evaluation)


class SyntheticSource(AbstractSource):
    """Random tokens, as many rows as a step has, for a model of random weights (a shape) or any causal one.

    Nothing is evaluated and no weights are kept: the run shows what a step costs.

    Args:
        config: The run.
        tuning: What is tuned; virtual tokens take positions.
    Raises:
        UsageError: the model is unknown, is no causal one or has fewer positions.
    """

    keeps_model: ClassVar[bool] = False

    def __init__(self, config: TrainConfig, tuning: AbstractTuning) -> None:
        self._config = config
        self._model_config = load_shape(
            config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        check_kind(self._model_config, "causal")
        if not is_shape(config.model):
            check_weights(config.model)
        check_length(
            self._model_config,
            config.resolved_sequence_length,
            num_virtual_tokens=getattr(tuning, "num_virtual_tokens", 0),
        )
        self.name, self.objective, self.selection, self.majority = SYNTHETIC, "lm", None, {}

    def describe(self) -> dict[str, object]:
        """Return the length of the rows."""
        return {"train": "random tokens", "sequence_length": self._config.resolved_sequence_length}

    def load(self, tuning: AbstractTuning) -> Loaded:
        """Make or load the model, attach what is tuned, draw the rows."""
        config = self._config
        device = resolve_device(config.device)
        dtype = resolve_dtype(config.dtype, device)
        if is_shape(config.model):
            dtype = dtype if isinstance(dtype, torch.dtype) else shape_dtype(self._model_config)
            base = random_model(self._model_config, dtype=dtype, device=device)
        else:
            base = load_model(
                config.model,
                dtype=dtype,
                device=device,
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
            )
        model = tuning.attach(base, seed=config.seed, revision=config.revision)
        rows = synthetic_rows(
            self._model_config,
            num_rows=config.batch_size * config.gradient_accumulation_steps,
            length=config.resolved_sequence_length,
            seed=config.train_set_seed,
        )
        return Loaded(model=model, base=base, tokenizer=None, protocol=_FullLM(), rows=rows, dev=[], test=[])


class _FullLM(AbstractProtocol):
    """Every token but the first is predicted."""

    selection: ClassVar[tuple[str, bool]] = ("eval_loss", False)

    def encode(self, rows: Sequence[Any]) -> list[EncodedExample]:
        """Return the rows, which are token ids already."""
        return list(rows)

    def objective(self, model: nn.Module) -> LMObjective:
        """Return the loss of all tokens."""
        return LMObjective.for_model(model, only_train_option=False)

    def evaluate(self, model: nn.Module, rows: Sequence[Any], *, only_loss: bool = False) -> EvaluationResult:
        """Refuse: random tokens tell nothing about a model.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"--task {SYNTHETIC} has no rows to evaluate on.")


def make_source(config: TrainConfig, tuning: AbstractTuning) -> AbstractSource:
    """Return what the run trains on, checked.

    Raises:
        UsageError: an option is wrong.
    """
    return SyntheticSource(config, tuning) if config.task == SYNTHETIC else TaskSource(config, tuning)
