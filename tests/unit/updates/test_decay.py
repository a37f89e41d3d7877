"""Which tensors decay: matrices that are neither biases nor norm weights, whatever their names."""

import pytest
import torch
from torch import Tensor, nn

from foretune.errors import UsageError
from foretune.parameters import collect_trainables
from foretune.updates import SGD, Momentum


class RootMeanSquareNorm(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight / x.square().mean(dim=-1, keepdim=True).sqrt()


def test_the_mask() -> None:
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 4),
            "conv": nn.Conv1d(2, 3, 2),
            "linear": nn.Linear(4, 3),
            "input_layernorm": nn.LayerNorm(4),
            "grid": nn.LayerNorm((3, 4)),
            "final": RootMeanSquareNorm(4),
            "stack": RootMeanSquareNorm(2, 4),
        }
    )
    decays = {trainable.name: trainable.decays for trainable in collect_trainables(model)}
    assert decays == {
        "embed.weight": True,
        "conv.weight": True,
        "conv.bias": False,
        "linear.weight": True,
        "linear.bias": False,
        "input_layernorm.weight": False,
        "input_layernorm.bias": False,
        "grid.weight": False,
        "grid.bias": False,
        "final.weight": False,
        "stack.weight": False,
    }


@pytest.mark.parametrize("update", [SGD, Momentum])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_decay_out_of_range_is_named(update: type, value: float) -> None:
    with pytest.raises(UsageError, match=f"weight_decay must be 0 or more and finite, got {value}"):
        update(weight_decay=value)
