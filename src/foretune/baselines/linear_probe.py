"""Linear probing: logistic regression on the features that the output head sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foretune.baselines.head import find_head, separate_head
from foretune.errors import UsageError
from foretune.objectives import ClassificationObjective, EncodedExample
from foretune.objectives.forward import last_logits

NUM_FOLDS = 5
"""Folds of the cross-validation that chooses the regularisation."""
MAX_ITERATIONS = 5000
TOLERANCE = 1e-4


def fit_linear_probe(model: nn.Module, rows: Sequence[EncodedExample], *, batch_size: int = 32) -> dict[str, Any]:
    """Replace the head's rows of the label words' tokens by the coefficients of a logistic regression.

        p(t | h) = softmax over option tokens t of w_t . h

    where h is the head's input at each position that predicts a token of the right option, and t that token. With
    two tokens, whose model is p(t_1 | h) = sigmoid(w . h), the rows are -w/2 and w/2. The strength of the L2 penalty
    is chosen among ten by the accuracy under cross-validation with five folds, or as many as the rarest token has
    rows. Other rows of the head stay. Same inputs give the same coefficients.

    Args:
        model: A causal language model; its head becomes a copy, so that a tied embedding keeps its bits.
        rows: Training rows, encoded.
        batch_size: Rows of a batch.
    Returns:
        The number of positions, the number of folds, and C, the inverse strength of the penalty that was chosen.
    Raises:
        UsageError: a token of a candidate is in fewer than two positions, or there is only one such token.
        IncompatibleError: the model's head is no linear layer.
    References:
        The baseline "LP" of Malladi et al. 2023, arXiv:2305.17333; `LogisticRegressionCV` of scikit-learn.
        Differs from the published code: a tied embedding is left alone (there the words' input embeddings change,
        too), the intercept is fitted where the head has a bias, not by the model's name, and features are float64.
    """
    from sklearn.linear_model import LogisticRegressionCV  # a second to import, and used here only

    features, targets = _features(model, rows, batch_size)
    num_folds = _check_counts(rows, targets)
    head = separate_head(model)
    regression = LogisticRegressionCV(
        cv=num_folds,
        fit_intercept=head.bias is not None,
        l1_ratios=(0.0,),
        scoring="accuracy",
        max_iter=MAX_ITERATIONS,
        tol=TOLERANCE,
        random_state=0,
        use_legacy_attributes=False,  # pyrefly: ignore[unexpected-keyword]  # newer than the stubs
    ).fit(features, targets)
    with torch.no_grad():
        tokens = torch.from_numpy(regression.classes_).to(head.weight.device)
        _write(head.weight, tokens, regression.coef_)
        if head.bias is not None:
            _write(head.bias, tokens, regression.intercept_)
    return {"num_positions": len(targets), "num_folds": num_folds, "C": float(regression.C_)}


@torch.no_grad()
def _features(model: nn.Module, rows: Sequence[EncodedExample], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the head's inputs at the positions that predict the right options, (N, H) float64, and those tokens."""
    device = next(model.parameters()).device
    seen: list[Tensor] = []
    features, targets = [], []
    was_training = model.training
    model.eval()
    hook = find_head(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        for start in range(0, len(rows), batch_size):
            right = [_right_option(row) for row in rows[start : start + batch_size]]
            longest = max(row.option_lengths[0] for row in right)
            batch: Any = ClassificationObjective().collate(right)
            on_device: Any = {key: tensor.to(device) for key, tensor in batch.items()}
            last_logits(model, on_device, longest)
            # the head sees the last positions only, or all of them in models without logits_to_keep
            hidden = seen.pop()[:, -longest:].double().cpu()
            for row, states in zip(right, hidden, strict=True):
                features.append(states[-row.option_lengths[0] :].numpy())
                targets.extend(row.token_ids[0][-row.option_lengths[0] :])
    finally:
        hook.remove()
        model.train(was_training)
    return np.concatenate(features), np.array(targets)


def _right_option(row: EncodedExample) -> EncodedExample:
    """Return the row with its right candidate alone."""
    right = row.correct[0]
    return EncodedExample((row.token_ids[right],), (row.option_lengths[right],), (0,), row.name)


def _check_counts(rows: Sequence[EncodedExample], targets: np.ndarray) -> int:
    """Return the number of folds; every fold needs every token."""
    counts = Counter(targets.tolist())
    lengths = [(ids, length) for row in rows for ids, length in zip(row.token_ids, row.option_lengths, strict=True)]
    options = {token for ids, length in lengths for token in ids[-length:]}
    if len(options) < 2:
        raise UsageError("--baseline linear_probe: the candidates are all the same token, so there is nothing to tell.")
    rarest = min(options, key=lambda token: counts[token])
    if counts[rarest] < 2:
        raise UsageError(
            f"--baseline linear_probe: token {rarest} of the candidates is in the right answer of {counts[rarest]} of "
            f"{len(rows)} training rows; cross-validation needs it in 2 at least. Raise --num-train."
        )
    return min(NUM_FOLDS, counts[rarest])


def _write(parameter: Tensor, tokens: Tensor, values: np.ndarray) -> None:
    """Put the coefficients of each token into its row; of two tokens, scikit-learn gives the second's only."""
    both = values if len(values) == len(tokens) else np.stack((-values[0] / 2, values[0] / 2))
    parameter[tokens] = torch.from_numpy(both).to(parameter)
