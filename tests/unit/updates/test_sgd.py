"""Plain descent, with decay of the weights before the step."""

import torch

from foretune.updates import SGD
from toys import trainables_of
from update_runs import estimates_and_start, run_update


def test_against_torch() -> None:
    """torch's SGD couples decay; for plain descent that is the same as shrinking the weights."""
    estimates, start = estimates_and_start(3, 4)
    weights, state = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    parameter = torch.nn.Parameter(start.clone())
    oracle = torch.optim.SGD([parameter], lr=0.1, weight_decay=0.3)
    for parameter.grad in estimates:
        oracle.step()
    torch.testing.assert_close(weights, parameter.detach(), rtol=0, atol=1e-14)
    assert not state.tensors


def test_vectors_do_not_decay() -> None:
    estimates, start = estimates_and_start(5)
    weights, _ = run_update(SGD(weight_decay=0.3), start, estimates, lr=0.1)
    torch.testing.assert_close(weights, start - 0.1 * torch.stack(estimates).sum(0), rtol=0, atol=1e-14)


def test_no_state_is_declared() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    assert SGD().num_state_elements(trainable, (3, 4)) == 0
