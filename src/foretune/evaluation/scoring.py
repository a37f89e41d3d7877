"""Evaluation by likelihood: the candidate with the best score is the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foretune.errors import NonFiniteLossError, UsageError
from foretune.evaluation.metrics import accuracy
from foretune.objectives import ClassificationObjective, EncodedExample
from foretune.objectives.batches import CandidateBatch


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The outcome of one evaluation.

    Args:
        accuracy: Fraction of rows predicted right, in [0, 1].
        loss: Mean cross entropy over the candidates, in nats per row.
        num_rows: Rows evaluated.
        predictions: The predicted candidate of each row, in the rows' own order.
    """

    accuracy: float
    loss: float
    num_rows: int
    predictions: tuple[int, ...]


@torch.inference_mode()
def evaluate_classification(
    model: nn.Module, examples: Sequence[EncodedExample], *, batch_size: int = 32
) -> EvaluationResult:
    """Score every row in eval mode and compare the best candidate (the first on ties) with the right ones.

    Rows of similar length share a batch; the result does not depend on the batches beyond rounding. The model
    is put back into the mode it was in.

    Args:
        model: A causal language model.
        examples: Rows from `encode_examples`.
        batch_size: Rows of a batch.
    Raises:
        UsageError: no rows, or a batch size below 1.
        NonFiniteLossError: a score is nan or infinite; the message names the row.
    """
    if not examples:
        raise UsageError("Nothing to evaluate: there are no rows.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it should be at least 1.")
    objective = ClassificationObjective()
    device = next(model.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda index: examples[index].length)
    predictions = [0] * len(examples)
    total_loss = 0.0
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(by_length), batch_size):
            indices = by_length[start : start + batch_size]
            rows = [examples[index] for index in indices]
            batch = _to_device(objective.collate(rows), device)
            scores = objective.score(model, batch)
            _refuse_non_finite(scores, batch, rows)
            total_loss += float(objective.loss_of_scores(scores, batch["labels"])) * objective.weight(batch)
            # numpy's argmax promises the first of equal maxima, torch's does not
            for index, best in zip(indices, scores.cpu().numpy().argmax(axis=1).tolist(), strict=True):
                predictions[index] = best
    finally:
        model.train(was_training)
    return EvaluationResult(
        accuracy=accuracy(predictions, [row.correct for row in examples]),
        loss=total_loss / len(examples),
        num_rows=len(examples),
        predictions=tuple(predictions),
    )


def _to_device(batch: CandidateBatch, device: torch.device) -> CandidateBatch:
    return {key: tensor.to(device) for key, tensor in batch.items()}  # type: ignore[return-value]


def _refuse_non_finite(scores: Tensor, batch: CandidateBatch, rows: Sequence[EncodedExample]) -> None:
    """Raise for a nan or infinite score: argmax would turn it into an innocent-looking prediction."""
    bad = ~scores.isfinite()
    if "candidate_mask" in batch:
        bad &= batch["candidate_mask"]
    if bad.any():
        row, candidate = bad.nonzero()[0].tolist()
        raise NonFiniteLossError(
            f"The score of candidate {candidate} of {rows[row].name} is {float(scores[row, candidate])}. "
            "Weights or activations overflow or are nan: try a wider dtype or an earlier checkpoint."
        )
