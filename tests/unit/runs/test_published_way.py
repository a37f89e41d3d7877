import pytest
import torch
from torch import nn

from foretune.objectives import ClassificationObjective, LMObjective
from foretune.runs import published_way
from foretune.runs.published_way import PublishedMeZO
from foretune.runs.shapes import load_shape, random_model
from foretune.runs.synthetic import synthetic_rows, two_words_behind

LENGTHS = (9, 14, 12)


@pytest.fixture(scope="module")
def model():
    return random_model(load_shape("mini"), dtype=torch.float64, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rows():
    return [synthetic_rows(load_shape("mini"), num_rows=1, length=length, seed=length)[0] for length in LENGTHS]


def test_its_classification_loss_is_ours(model, rows):
    rows, objective = two_words_behind(rows), ClassificationObjective()
    with torch.inference_mode():
        ours = objective.loss(model, objective.collate(rows))
        theirs = published_way.classification_loss(model, published_way.collate(rows))
    torch.testing.assert_close(theirs.float(), ours, rtol=1e-5, atol=1e-6)


def test_its_lm_loss_is_ours(model, rows):
    objective = LMObjective(only_train_option=False)
    with torch.inference_mode():
        ours = objective.loss(model, objective.collate(rows))
        theirs = published_way.lm_loss(model, published_way.collate(rows))
    torch.testing.assert_close(theirs.float(), ours, rtol=1e-5, atol=1e-6)


def test_a_step_follows_the_formula():
    model = nn.Linear(3, 2).double()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    slopes = {name: torch.full_like(parameter, 0.5) for name, parameter in before.items()}
    lr, zo_eps, weight_decay = 0.1, 1e-3, 0.25
    method = PublishedMeZO(model, lr=lr, zo_eps=zo_eps, weight_decay=weight_decay)

    def linear_loss():
        return sum((slopes[name] * parameter).sum() for name, parameter in model.named_parameters())

    torch.manual_seed(7)
    seed = int(torch.randint(1_000_000_000, ()))
    torch.manual_seed(seed)
    z = {name: torch.normal(0.0, 1.0, tensor.shape, dtype=tensor.dtype) for name, tensor in before.items()}
    torch.manual_seed(7)
    method.step(linear_loss)

    projected_grad = sum(float((slopes[name] * z[name]).sum()) for name in z)
    for name, parameter in model.named_parameters():
        decay = weight_decay if name == "weight" else 0.0
        expected = before[name] - lr * (projected_grad * z[name] + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factors", [(1, -2, 1), (2, -2)])
def test_walks_cancel_up_to_rounding(factors):
    model = nn.Linear(3, 2).double()
    before = model.weight.detach().clone()
    method = PublishedMeZO(model, lr=0.1, zo_eps=0.5)
    for factor in factors:
        method.perturb(3, factor)
    torch.testing.assert_close(model.weight.detach(), before, rtol=0, atol=1e-14)
