"""A metric as the loss: what zeroth-order methods can train on and gradients cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from foretune.evaluation.metrics import CandidateMetric, TextMetric
from foretune.evaluation.scoring import Scorer, predicted, scores_of_rows
from foretune.evaluation.texts import TextWriter
from foretune.objectives import EncodedExample


class CandidateMetricObjective:
    """The negative of a metric of the predicted candidates, for example ``loss = -accuracy``.

    One forward a call. A step function of the weights, with no gradient: two losses often are equal, and then the step
    is zero; large batches and a larger zo_eps help.

    Args:
        metric: What is to grow.
        scorer: Scores the candidates of a batch.
    References:
        Malladi et al. 2023, arXiv:2305.17333, section 3.3 (accuracy of RoBERTa-large).
    """

    def __init__(self, metric: CandidateMetric, scorer: Scorer) -> None:
        self._metric = metric
        self._scorer = scorer

    def collate(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Put rows into the scorer's batch, with the rows themselves."""
        return {**self._scorer.collate(rows), "rows": tuple(rows)}

    def weight(self, batch: dict[str, Any]) -> int:
        """Return the number of rows."""
        return len(batch["rows"])

    @torch.no_grad()
    def loss(self, model: nn.Module, batch: dict[str, Any]) -> float:
        """Return minus the mean over rows.

        Raises:
            NonFiniteLossError: a score is nan or infinite; the message names the row.
        """
        scores = scores_of_rows(self._scorer.score(model, batch), batch["rows"])
        return -self._metric(predicted(scores), [row.correct for row in batch["rows"]])


class TextMetricObjective:
    """The negative of a metric of generated texts: ``loss = -F1``, or minus a reward of the user's own.

    A forward a token of the longest text, greedy, so the same weights give the same loss. The engine rule takes
    ``in_place`` for it: to perturb each layer once a token would cost more than it saves.

    Args:
        metric: What is to grow.
        writer: Generates the texts.
    References:
        Malladi et al. 2023, arXiv:2305.17333, section 3.3 (F1 of SQuAD).
    """

    def __init__(self, metric: TextMetric, writer: TextWriter) -> None:
        self._metric = metric
        self._writer = writer

    def collate(self, rows: Sequence[EncodedExample]) -> dict[str, Any]:
        """Put rows into a batch, with what the metric is told of them."""
        return {"rows": tuple(rows), "examples": self._writer.examples(rows)}

    def weight(self, batch: dict[str, Any]) -> int:
        """Return the number of rows."""
        return len(batch["rows"])

    def loss(self, model: nn.Module, batch: dict[str, Any]) -> float:
        """Return minus the mean over rows."""
        return -self._metric(self._writer.write(model, batch["rows"]), batch["examples"])
