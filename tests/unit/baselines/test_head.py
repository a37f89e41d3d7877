from __future__ import annotations

import pytest
import torch
from torch import nn

import model_zoo
from foretune.baselines.head import separate_head
from foretune.errors import IncompatibleError


@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama, model_zoo.gpt2])
def test_the_copy_gives_the_same_logits_and_shares_nothing(build):
    model = build().eval()
    ids = torch.arange(3, 9)[None]
    before = model(input_ids=ids).logits
    head = separate_head(model)
    assert model.get_output_embeddings() is head
    assert torch.equal(model(input_ids=ids).logits, before)
    table = model.get_input_embeddings().weight
    kept = table.detach().clone()
    with torch.no_grad():
        head.weight.add_(1.0)
    assert torch.equal(table, kept)
    assert not torch.equal(model(input_ids=ids).logits, before)


def test_a_half_precision_model_gets_a_float32_head():
    model = model_zoo.opt().to(torch.bfloat16).eval()
    assert separate_head(model).weight.dtype == torch.float32
    assert model(input_ids=torch.arange(3, 9)[None]).logits.dtype == torch.float32


def test_a_model_without_a_linear_head_is_refused():
    with pytest.raises(IncompatibleError, match=r"head of Linear cannot be trained alone.*found none"):
        separate_head(nn.Linear(2, 2))
