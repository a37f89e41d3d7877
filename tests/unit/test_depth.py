"""What runs before, within and behind the layers, whatever the order in which a model declares its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import model_zoo
from foretune.depth import BEFORE_LAYERS, find_depths
from foretune.errors import IncompatibleError
from foretune.parameters import collect_trainables
from toys import differing_bits, weights_of

OUTSIDE = {
    # (before the layers, behind them): OPT declares its last norm in front of its layers
    "opt": (
        {"lm_head.weight", "model.decoder.embed_positions.weight"},
        {"model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.weight"},
    ),
    "llama": ({"model.embed_tokens.weight"}, {"lm_head.weight", "model.norm.weight"}),
    "gpt2": (
        {"lm_head.weight", "transformer.wpe.weight"},
        {"transformer.ln_f.bias", "transformer.ln_f.weight"},
    ),
    "qwen2": ({"lm_head.weight"}, {"model.norm.weight"}),
    "mixtral": ({"model.embed_tokens.weight"}, {"lm_head.weight", "model.norm.weight"}),
    "roberta": (
        {
            "lm_head.decoder.weight",
            "roberta.embeddings.LayerNorm.bias",
            "roberta.embeddings.LayerNorm.weight",
            "roberta.embeddings.position_embeddings.weight",
            "roberta.embeddings.token_type_embeddings.weight",
        },
        {
            "lm_head.bias",
            "lm_head.dense.bias",
            "lm_head.dense.weight",
            "lm_head.layer_norm.bias",
            "lm_head.layer_norm.weight",
        },
    ),
    "opt_lora": (set(), set()),
}


def build(name: str) -> nn.Module:
    return model_zoo.with_adapter(model_zoo.opt, "lora") if name == "opt_lora" else getattr(model_zoo, name)()


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_runs_before_and_behind_the_layers(name):
    """A tied head is the embedding that is read first; adapters sit in their layer."""
    depths = find_depths(model := build(name), collect_trainables(model))
    assert depths.num_layers == 2
    found = {depth: {t.name for t, d in depths.of.items() if d == depth} for depth in (BEFORE_LAYERS, 2)}
    assert (found[BEFORE_LAYERS], found[2]) == OUTSIDE[name]
    for trainable, depth in depths.of.items():
        if 0 <= depth < 2:
            assert f".{depth}." in trainable.name


def test_layers_count_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = nn.ModuleList(nn.Linear(2, 2) for _ in range(11))
            self.between = nn.Linear(2, 2)
            self.idle = nn.Linear(2, 2)

        def forward(self, x):
            for index, layer in enumerate(reversed(self.steps)):
                x = layer(x if index != 3 else self.between(x))
            return x

    model = Backwards()
    depths = find_depths(model, collect_trainables(model), lambda: model(torch.ones(1, 2)))
    by_name = {trainable.name: depth for trainable, depth in depths.of.items()}
    assert depths.num_layers == 11
    assert by_name["steps.10.weight"] == 0
    assert by_name["steps.2.weight"] == 8
    assert by_name["between.weight"] == 3
    assert by_name["idle.weight"] == 11


def test_adapters_on_some_layers_do_not_hide_the_others():
    model = model_zoo.opt(num_layers=5)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".layers.3." in name)
    depths = find_depths(model, collect_trainables(model))
    assert depths.num_layers == 5
    assert set(depths.of.values()) == {3}


def test_the_model_is_as_it_was():
    model = model_zoo.opt()
    before, state = weights_of(model), torch.random.get_rng_state()
    find_depths(model, collect_trainables(model))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not differing_bits(weights_of(model), before)


def test_a_model_that_takes_more_than_tokens_needs_a_run():
    model = model_zoo.Stack(3)
    with pytest.raises(IncompatibleError, match=r"Stack cannot be run on tokens alone .*: give `run`"):
        find_depths(model, collect_trainables(model))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert find_depths(model, collect_trainables(model), model_zoo.data_closure(model)).num_layers == 3
