"""Descent along the matrix sign of an estimate; plain descent for vectors."""

import pytest
import torch

from foretune.updates import SGD, MSign
from toys import trainables_of
from update_runs import estimates_and_start, run_update


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 2, 3)], ids=str)
def test_matrices_move_along_u_v_transposed(shape: tuple[int, ...]) -> None:
    """Of the SVD of each estimate, seen as (rows, rest); decay is that of the weights before the step."""
    estimates, start = estimates_and_start(*shape)
    weights, state = run_update(MSign(exact=True, weight_decay=0.3), start, estimates, lr=0.1)
    expected = start
    for estimate in estimates:
        u, _, vh = torch.linalg.svd(estimate.view(shape[0], -1), full_matrices=False)
        expected = expected - 0.1 * ((u @ vh).view(shape) + 0.3 * expected)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    assert not state.tensors


def test_newton_schulz_is_near_the_svd() -> None:
    """At most a third off in each singular direction, so in spectral norm."""
    estimates, start = estimates_and_start(4, 9, num=1)
    near, _ = run_update(MSign(), start, estimates, lr=0.1)
    exact, _ = run_update(MSign(exact=True), start, estimates, lr=0.1)
    assert 0 < float(torch.linalg.matrix_norm(near - exact, 2)) < 0.1 * 0.33
    assert float(torch.linalg.matrix_norm(near - start, 2)) <= 0.1 * 1.21


@pytest.mark.parametrize("shape", [(5,), (), (1, 5), (5, 1)], ids=str)
def test_vectors_descend_plainly(shape: tuple[int, ...]) -> None:
    estimates, start = estimates_and_start(*shape)
    weights, _ = run_update(MSign(weight_decay=0.3), start, estimates, lr=0.1)
    plain, _ = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    assert torch.equal(weights, plain)


def test_no_state_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert MSign().num_state_elements(trainable, (3, 4)) == 0
