"""Sums of outputs by row: over all forwards within the context, without padding, and without a trace."""

import pytest
import torch
from torch import Tensor, nn

import model_zoo
from engine_runs import num_hooks
from foretune.errors import IncompatibleError
from foretune.parameters import collect_trainables
from foretune.schedules.activations import watch_outputs
from toys import Net


class Masked(nn.Module):
    """Takes a mask and passes it on to a child, by name or by place; its projection does not know it."""

    def __init__(self, by_name: bool = True) -> None:
        super().__init__()
        self.by_name = by_name
        self.child = Inner()

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.child(x, attention_mask=attention_mask) if self.by_name else self.child(x, attention_mask)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.projection(x)


X = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
PADDED = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


def size(model: nn.Module, x: Tensor, counts: Tensor) -> Tensor:
    return (model.child.projection(x).abs() * counts[..., None]).sum(dim=(0, 1)).detach()


@pytest.mark.parametrize("by_name", [True, False])
def test_padding_does_not_count(by_name: bool) -> None:
    model = Masked(by_name)
    (weight,) = collect_trainables(model)
    with watch_outputs(model, (weight,)) as sums:
        model(X, attention_mask=PADDED)
    torch.testing.assert_close(sums[weight], size(model, X, PADDED))
    assert sums[weight].dtype == torch.float32


def test_all_forwards_count_each_with_its_own_mask() -> None:
    """A mask does not outlive its forward, also if that raises; inference mode and autocast change nothing."""
    model = Masked()
    (weight,) = collect_trainables(model)
    with watch_outputs(model, (weight,)) as sums:
        with torch.inference_mode():
            model(X, attention_mask=PADDED)
        with pytest.raises(RuntimeError):
            model(X[..., :2], attention_mask=PADDED)
        model(X)
        model.child.projection(X[0])
    ones = torch.ones(2, 4)
    expected = size(model, X, PADDED) + size(model, X, ones) + size(model, X[:1], ones[:1])
    torch.testing.assert_close(sums[weight], expected)


def test_of_a_mask_over_cached_tokens_the_last_columns_count() -> None:
    model = Masked()
    (weight,) = collect_trainables(model)
    with watch_outputs(model, (weight,)) as sums:
        model(X[:, 1:], attention_mask=torch.cat([torch.zeros(2, 3), PADDED], dim=1))
    torch.testing.assert_close(sums[weight], size(model, X[:, 1:], PADDED[:, 1:]))


def test_masks_that_are_not_of_tokens_are_passed_over() -> None:
    """As the four-dimensional ones within layers: the enclosing module's mask counts."""
    model = Masked()
    (weight,) = collect_trainables(model)
    model.forward = lambda x, attention_mask: model.child(x, attention_mask=attention_mask[:, None, None, :])
    with watch_outputs(model, (weight,)) as sums:
        model(X, attention_mask=PADDED)
    torch.testing.assert_close(sums[weight], size(model, X, PADDED))


def test_nothing_is_left_behind() -> None:
    model = Masked()
    trainables = collect_trainables(model)
    with pytest.raises(ZeroDivisionError), watch_outputs(model, trainables) as sums:
        assert num_hooks(model) > 0
        raise ZeroDivisionError
    model(X)
    assert num_hooks(model) == 0
    assert not sums


@pytest.mark.parametrize("base", [model_zoo.opt, model_zoo.llama, model_zoo.roberta])
def test_padding_of_real_models_does_not_count(base) -> None:
    """A row with padding has the sums of the row without it."""
    if base is model_zoo.roberta:
        model = base().eval()
        watched = [t for t in collect_trainables(model) if t.name.endswith(".query.weight")]
    else:
        model = model_zoo.with_adapter(base, "lora").eval()
        watched = collect_trainables(model)
    ids, padding = torch.tensor([[8, 4, 4, 21]]), torch.tensor([[1, 1]])
    inputs = {"input_ids": torch.cat([padding, ids], dim=1), "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]])}
    if base is model_zoo.llama:
        inputs["position_ids"] = torch.tensor([[0, 0, 0, 1, 2, 3]])
    found = []
    for arguments in (inputs, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
        with watch_outputs(model, watched) as sums, torch.inference_mode():
            model(**arguments)
        found.append(sums)
    assert len(found[0]) == len(watched)
    for trainable in watched:
        torch.testing.assert_close(found[0][trainable], found[1][trainable], rtol=1e-4, atol=1e-5)


def test_outputs_without_the_rows_of_the_weight_are_refused_by_name() -> None:
    model = nn.Embedding(5, 3)
    with (
        pytest.raises(IncompatibleError, match=r"'weight' has shape \(2, 3\), but the weight has 5 rows"),
        watch_outputs(model, collect_trainables(model)),
    ):
        model(torch.tensor([0, 1]))


def test_modules_that_are_not_watched_do_not_count() -> None:
    net = Net()
    head = [trainable for trainable in collect_trainables(net) if trainable.name == "head.weight"]
    with watch_outputs(net, head) as sums:
        net()
    assert list(sums) == head
