"""An output head of a model's own, apart from the embedding table it may be tied to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from foretune.errors import IncompatibleError


class OutputHead(nn.Linear):
    """A copy of a model's head that computes in its own dtype, float32 or wider, whatever the hidden states are."""

    def __init__(self, head: nn.Linear) -> None:
        dtype = torch.promote_types(head.weight.dtype, torch.float32)
        bias = head.bias is not None
        super().__init__(head.in_features, head.out_features, bias, device=head.weight.device, dtype=dtype)
        self.load_state_dict({name: tensor for name, tensor in head.state_dict().items() if name in self.state_dict()})

    def forward(self, input: Tensor) -> Tensor:
        """Return the logits of hidden states."""
        return functional.linear(input.to(self.weight.dtype), self.weight, self.bias)


@torch.no_grad()
def separate_head(model: nn.Module) -> OutputHead:
    """Replace a model's output head by a copy, and return it: the embedding table keeps its bits, tied or not.

    Raises:
        IncompatibleError: the model has no output head, or one that is not a linear layer.
    """
    own = OutputHead(find_head(model))
    base_model(model).set_output_embeddings(own)
    return own


def find_head(model: nn.Module) -> nn.Linear:
    """Return a model's output head.

    Raises:
        IncompatibleError: the model has none, or one that is not a linear layer.
    """
    inner = base_model(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear):
        found = "none" if head is None else f"a {type(head).__name__}"
        raise IncompatibleError(
            f"The head of {type(inner).__name__} cannot be trained alone: it should be a linear layer, found {found}."
        )
    return head


def base_model(model: Any) -> Any:
    """Return the model inside adapters of peft."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
