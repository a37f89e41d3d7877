"""Evaluation by likelihood: the candidate with the best score is the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from foretune.errors import NonFiniteLossError, UsageError
from foretune.evaluation.metrics import accuracy
from foretune.evaluation.result import EvaluationResult
from foretune.objectives import EncodedExample

MAX_BATCH_TOKENS = 16_384
"""Tokens of a batch's sequences, at most, however many rows were asked for."""

MAX_BATCH_TOKENS_CPU = 2_048
"""The same on a CPU, where activations of more tokens leave the caches: 1.1 to 1.5 times slower."""


class CandidateRow(Protocol):
    """What is read of an encoded row with candidates."""

    @property
    def correct(self) -> tuple[int, ...]: ...  # noqa: D102 - the class says it
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def option_lengths(self) -> tuple[int, ...]: ...  # noqa: D102


class Scorer(Protocol):
    """An objective that scores candidates."""

    def collate(self, rows: Sequence[Any]) -> Any:
        """Put rows into one batch."""
        ...

    def score(self, model: nn.Module, batch: Any) -> Tensor:
        """Return float32 scores, shape (rows, most candidates); -inf where a row has fewer."""
        ...


def evaluate_candidates(
    model: nn.Module,
    rows: Sequence[CandidateRow],
    scorer: Scorer,
    *,
    loss: Literal["classification", "lm"] = "classification",
    calibration: Sequence[EncodedExample] | None = None,
    batch_size: int = 32,
) -> EvaluationResult:
    """Score every row in eval mode and compare the best candidate (the first on ties) with the right ones.

    The result does not depend on the batches beyond rounding. The model is put back into the mode it was in.

    Args:
        model: A language model.
        rows: Encoded rows.
        scorer: Makes batches and scores of them: mean log-probabilities of the options.
        loss: Which objective's loss is returned: ``classification``: mean over rows of the cross entropy over scores;
            ``lm``: mean over the tokens of the right candidates of -log p.
        calibration: The same candidates after a prompt that says nothing of the row (surface form competition): then
            a candidate's score is its log-probability minus that, sums over tokens both.
        batch_size: Most rows of a batch.
    Raises:
        UsageError: no rows, or a batch size below 1.
        NonFiniteLossError: a score is nan or infinite; the message names the row.
    References:
        Holtzman et al. 2021, arXiv:2104.08315 (surface form competition).
    """
    scores = candidate_scores(model, rows, scorer, batch_size=batch_size)
    losses, weights = zip(*(_LOSSES[loss](row, values) for row, values in zip(rows, scores, strict=True)), strict=True)
    if calibration is not None:
        scores = _calibrated(model, rows, scores, calibration, scorer, batch_size)
    predictions = predicted(scores)
    return EvaluationResult(
        metrics={"accuracy": accuracy(predictions, [row.correct for row in rows])},
        loss=sum(losses) / sum(weights),
        num_rows=len(rows),
        predictions=predictions,
    )


@torch.inference_mode()
def candidate_scores(
    model: nn.Module, rows: Sequence[CandidateRow], scorer: Scorer, *, batch_size: int = 32
) -> list[Tensor]:
    """Return the scores of each row's candidates, float32 on the CPU, in the rows' order; see `evaluate_candidates`."""
    device = next(model.parameters()).device
    found: dict[int, Tensor] = {}
    was_training = model.training
    model.eval()
    try:
        max_tokens = MAX_BATCH_TOKENS_CPU if device.type == "cpu" else MAX_BATCH_TOKENS
        for indices in batches_by_length(rows, batch_size, max_tokens):
            batch = scorer.collate([rows[index] for index in indices])
            scores = scorer.score(model, {key: tensor.to(device) for key, tensor in batch.items()})
            found |= zip(indices, scores_of_rows(scores, [rows[index] for index in indices]), strict=True)
    finally:
        model.train(was_training)
    return [found[index] for index in range(len(rows))]


def scores_of_rows(scores: Tensor, rows: Sequence[CandidateRow]) -> list[Tensor]:
    """Return the scores of each row of a batch, on the CPU, without those of absent candidates.

    Raises:
        NonFiniteLossError: a score is nan or infinite; the message names the row.
    """
    return [_finite(values[: len(row.option_lengths)], row) for values, row in zip(scores.cpu(), rows, strict=True)]


def predicted(scores: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the best candidate of each row, the first on ties: numpy's argmax promises that, torch's does not."""
    return tuple(int(values.numpy().argmax()) for values in scores)


def batches_by_length(rows: Sequence[CandidateRow], batch_size: int, max_tokens: int) -> Iterator[list[int]]:
    """Yield the rows' indices in batches of similar length; several rows have at most `max_tokens`, padded.

    Raises:
        UsageError: no rows, or a batch size below 1.
    """
    if not rows:
        raise UsageError("Nothing to evaluate: there are no rows.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it should be at least 1.")
    batch: list[int] = []
    num_sequences = 0
    for index in sorted(range(len(rows)), key=lambda index: rows[index].length):
        num_sequences += len(rows[index].option_lengths)
        if batch and (len(batch) == batch_size or num_sequences * rows[index].length > max_tokens):
            yield batch
            batch, num_sequences = [], len(rows[index].option_lengths)
        batch.append(index)
    yield batch


def _calibrated(
    model: nn.Module,
    rows: Sequence[CandidateRow],
    scores: Sequence[Tensor],
    calibration: Sequence[EncodedExample],
    scorer: Scorer,
    batch_size: int,
) -> list[Tensor]:
    """Subtract the candidates' log-probabilities without the row, each distinct one computed once."""
    distinct = {row.token_ids: row for row in calibration}
    base_scores = candidate_scores(model, list(distinct.values()), scorer, batch_size=batch_size)
    base = dict(zip(distinct, base_scores, strict=True))
    return [
        values * torch.tensor(row.option_lengths) - base[plain.token_ids] * torch.tensor(plain.option_lengths)
        for row, values, plain in zip(rows, scores, calibration, strict=True)
    ]


def _cross_entropy(row: CandidateRow, scores: Tensor) -> tuple[float, int]:
    """Return a row's share of the loss over candidates, and its weight."""
    return -float(scores.log_softmax(0)[row.correct[0]]), 1


def _negative_log_likelihood(row: CandidateRow, scores: Tensor) -> tuple[float, int]:
    """Return a row's share of the token mean, and its tokens."""
    length = row.option_lengths[row.correct[0]]
    return -float(scores[row.correct[0]]) * length, length


_LOSSES = {"classification": _cross_entropy, "lm": _negative_log_likelihood}


def _finite(scores: Tensor, row: CandidateRow) -> Tensor:
    """Refuse a nan or infinite score: argmax would turn it into an innocent-looking prediction."""
    bad = (~scores.isfinite()).nonzero()
    if len(bad):
        candidate = int(bad[0])
        raise NonFiniteLossError(
            f"The score of candidate {candidate} of {row.name} is {float(scores[candidate])}. "
            "Weights or activations overflow or are nan: try a wider dtype or an earlier checkpoint."
        )
    return scores
