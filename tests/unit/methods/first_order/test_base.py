"""First-order baselines: beside the methods, in one list of names, but no compositions."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from foretune.errors import UsageError
from foretune.methods import BASELINES, HYBRIDS, METHODS, RECIPES, make_method, make_recipe, option_help
from foretune.parameters import collect_trainables
from toys import Net


def test_names_are_one_list_of_three_parts():
    assert set(BASELINES) == {"sgd", "adam", "adamw"}
    assert set(RECIPES) == set(BASELINES) | set(METHODS) | set(HYBRIDS)
    assert set(HYBRIDS) == {"hybrid"}
    assert not set(BASELINES) & set(METHODS)


def test_an_unknown_name_is_near_to_both():
    with pytest.raises(UsageError, match=r"Unknown method 'adamm'\. Did you mean: .*adamw"):
        make_recipe("adamm", {})
    with pytest.raises(UsageError, match=r"Unknown method 'mezzo'\. Did you mean: mezo"):
        make_recipe("mezzo", {})


def test_a_baseline_is_no_method():
    with pytest.raises(UsageError, match=r"Method 'adam' is of another kind; here: .*mezo"):
        make_method("adam", {})
    assert make_recipe("mezo", {}) == make_method("mezo", {})


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_setting_is_documented(name):
    recipe = BASELINES.get(name)
    assert option_help(recipe).keys() == {setting.name for setting in fields(recipe)}


@pytest.mark.parametrize("name", list(BASELINES))
def test_biases_and_norms_do_not_decay(name):
    trainables = collect_trainables(Net())
    decaying, others = make_recipe(name, {"weight_decay": 0.1}).optimizer(trainables).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {trainable.parameter: trainable.name for trainable in trainables}
    assert {names[parameter] for parameter in decaying["params"]} == {"first.weight", "head.weight"}
    assert len(others["params"]) == 4


@pytest.mark.parametrize(
    ("name", "settings", "tensors"),
    [("sgd", {}, 0), ("sgd", {"momentum": 0.9}, 1), ("adam", {}, 2), ("adamw", {}, 2)],
)
def test_state_is_as_declared(name, settings, tensors):
    """methods.md 7: SGD 0, with momentum d; Adam 2 d."""
    model = Net()
    recipe = make_recipe(name, settings)
    trainables = collect_trainables(model)
    optimizer = recipe.optimizer(trainables)
    model().backward()
    optimizer.step()
    kept = sum(v.numel() for state in optimizer.state.values() for v in state.values() if v is not None and v.dim() > 0)
    assert recipe.num_state_tensors == tensors
    assert kept == tensors * sum(trainable.parameter.numel() for trainable in trainables)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sgd", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("sgd", {"lr": -1.0}, "lr must be 0 or more and finite, got -1.0"),
        ("sgd", {"weight_decay": -0.1}, "weight_decay must be 0 or more and finite, got -0.1"),
        ("adam", {"max_grad_norm": float("inf")}, "max_grad_norm must be 0 or more and finite, got inf"),
        ("adam", {"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\), got \(0.9,\)"),
        ("adamw", {"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ("adamw", {"zo_eps": 1e-3}, r"Method 'adamw' has no option 'zo_eps'\. Did you mean: eps\?"),
    ],
)
def test_settings_out_of_range_are_named(name, settings, message):
    with pytest.raises(UsageError, match=message):
        make_recipe(name, settings)


@pytest.mark.parametrize(("tuning", "lr"), [("full", 1e-5), ("lora", 1e-4), ("prefix", 1e-2)])
def test_published_rates_follow_the_tuning_scheme(tuning, lr):
    assert make_recipe("adamw", {}, tuning=tuning).lr == lr
    assert make_recipe("adamw", {"lr": 1.0}, tuning=tuning).lr == 1.0


def test_kinds_of_optimizer():
    trainables = collect_trainables(Net())
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    assert all(type(make_recipe(name, {}).optimizer(trainables)) is kind for name, kind in kinds.items())
