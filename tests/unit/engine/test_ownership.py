"""Who reads a tensor, as far as the structure of a model tells."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from foretune.engine.ownership import find_owners, is_called, opaque_module, reads_rows, rows_read
from foretune.parameters import collect_trainables
from model_zoo import HIDDEN, Attention, Embeddings, Lists, Nested, Shared, roberta


def owners_of(model: nn.Module) -> dict[str, set[str]]:
    names = {module: name for name, module in model.named_modules()}
    return {
        names[module]: {trainable.name for trainable in members}
        for module, members in find_owners(model, collect_trainables(model))
    }


def test_a_module_owns_what_it_holds_itself() -> None:
    assert owners_of(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2, bias=False)))) == {
        "0": {"0.weight", "0.bias"},
        "1.0": {"1.0.weight"},
    }


def test_lists_of_tensors_belong_to_the_nearest_module_that_runs() -> None:
    assert owners_of(Lists()) == {"": {"scales.0", "scales.1", "named.inner.0"}}
    assert owners_of(nn.Sequential(nn.ModuleList([nn.ParameterList([torch.ones(1)])]))) == {"": {"0.0.0"}}


def test_nested_owners_and_tied_tensors_are_listed_under_each() -> None:
    assert owners_of(Nested()) == {
        "": {"bias", "scale"},
        "child": {"child.weight", "bias"},
        "norm": {"norm.weight", "bias"},
    }
    owners = owners_of(roberta())
    assert owners["lm_head"] == {"lm_head.bias"}
    assert owners["lm_head.decoder"] == {"lm_head.bias", "lm_head.decoder.weight"}
    assert owners["roberta.embeddings.word_embeddings"] == {"lm_head.decoder.weight"}


def test_attention_reads_its_output_projection() -> None:
    assert set(owners_of(Attention())) == {"attention"}


def test_a_module_that_appears_twice_is_listed_once() -> None:
    shared = Shared(2)
    assert owners_of(nn.Sequential(shared, shared)) == {"0.layer": {"0.layer.weight", "0.layer.bias"}}


def test_frozen_tensors_have_no_owner() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert owners_of(model) == {"1": {"1.weight", "1.bias"}}


def test_a_forward_set_on_the_instance_counts() -> None:
    box = nn.ModuleDict({"layer": nn.Linear(2, 2)})
    assert not is_called(box)
    box.forward = types.MethodType(lambda self, x: self["layer"](x), box)
    assert is_called(box)


class Shifted(nn.Embedding):
    def forward(self, input):
        return super().forward(input + 1)


def test_only_a_plain_lookup_reads_just_the_rows_it_is_given() -> None:
    table = nn.Embedding(4, HIDDEN)
    assert reads_rows(table)
    assert not reads_rows(Shifted(4, HIDDEN))
    assert not reads_rows(nn.Linear(4, HIDDEN))
    table.forward = types.MethodType(lambda self, input: self.weight, table)
    assert not reads_rows(table)


def test_rows_read_are_counted_once_on_a_cpu_alone_where_nobody_waits_for_the_count() -> None:
    weight, read = torch.empty(9, 2), torch.tensor([[7, 2], [2, 5]])
    assert rows_read((read,), weight).tolist() == [2, 5, 7]
    assert rows_read((), weight) is None
    elsewhere = rows_read((read.to("meta"),), weight.to("meta"))
    assert elsewhere.shape == (4,)
    assert elsewhere.dtype == torch.int64


def test_compiled_and_scripted_modules_are_opaque() -> None:
    assert opaque_module(Embeddings()) is None
    scripted = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(2, 2)))
    assert opaque_module(scripted) == "'1' (RecursiveScriptModule)"
    assert opaque_module(torch.compile(nn.Linear(2, 2))) == "the model (OptimizedModule)"
    in_place = nn.Sequential(nn.Linear(2, 2))
    in_place[0].compile()
    assert opaque_module(in_place) == "'0' (Linear)"


@pytest.mark.parametrize("count", [1, 2])
def test_parametrized_weights_belong_to_the_parametrization(count) -> None:
    from torch.nn.utils import parametrize

    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    for _ in range(count):
        parametrize.register_parametrization(model[0], "weight", Doubled())
    assert owners_of(model) == {"0.parametrizations.weight": {"0.parametrizations.weight.original"}}
