"""The recipe of hybrid training: MeZO's settings for one half, those of a baseline for the other."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import model_zoo
from foretune import catalogue
from foretune.errors import UsageError
from foretune.methods import BASELINES, METHODS, HybridRecipe, make_method, make_recipe, option_help


def test_it_is_a_recipe_of_its_own_kind():
    with pytest.raises(UsageError, match="Method 'hybrid' is of another kind"):
        make_method("hybrid", {})
    assert "hybrid" not in {*METHODS, *BASELINES}
    assert isinstance(make_recipe("hybrid", {}, tuning="lora"), HybridRecipe)


def test_every_setting_is_documented():
    assert option_help(HybridRecipe).keys() == {setting.name for setting in fields(HybridRecipe)}


def test_both_halves_are_the_recipes_that_stand_alone():
    settings = {"lr": 1e-4, "zo_eps": 1e-2, "num_directions": 3, "weight_decay": 0.1}
    recipe = make_recipe("hybrid", {**settings, "fo_optimizer": "adamw", "fo_lr": 1e-3, "max_grad_norm": 0.5})
    assert recipe.zo == make_recipe("mezo", settings)
    assert recipe.fo == make_recipe("adamw", {"lr": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5})
    for name in BASELINES:
        assert make_recipe("hybrid", {"fo_optimizer": name}).fo.lr == make_recipe(name, {}).lr


def test_defaults_are_those_of_mezo_for_the_scheme():
    for tuning in ("full", "lora"):
        ours, theirs = (make_recipe(name, {}, tuning=tuning) for name in ("hybrid", "mezo"))
        assert (ours.lr, ours.zo_eps) == (theirs.lr, theirs.zo_eps)
    with pytest.raises(UsageError, match="Method 'hybrid' is not defined for --tuning prefix; use full or lora"):
        make_recipe("hybrid", {}, tuning="prefix")


def test_the_optimizer_has_the_settings():
    model = model_zoo.opt(4)
    recipe = make_recipe("hybrid", {"fo_optimizer": "adam", "fo_lr": 1e-3, "lr": 1e-4, "weight_decay": 0.1})
    optimizer = recipe.optimizer(model, seed=3, engine="in_place")
    assert optimizer.hybrid_zo_layers == 2
    assert isinstance(optimizer.fo, torch.optim.Adam)
    assert (optimizer.zo.seed, optimizer.zo.engine_name) == (3, "in_place")
    assert optimizer.zo.parts == recipe.zo.parts()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 1e-3, 1e-3]
    decaying = {group["weight_decay"] for group in optimizer.fo.param_groups}
    assert decaying == {0.0, 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hybrid_zo_layers": -1}, "hybrid_zo_layers must be 0 or more, got -1"),
        ({"lr": -1.0}, "^lr must be 0 or more and finite, got -1.0"),
        ({"fo_lr": float("inf")}, "fo_lr must be 0 or more and finite, got inf"),
        ({"zo_eps": 0.0}, "zo_eps must be positive and finite, got 0.0"),
        ({"num_directions": 0}, "num_directions must be at least 1, got 0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be 0 or more and finite, got -1.0"),
        ({"fo_optimizer": "adamx"}, "Unknown method 'adamx'. Did you mean: adam"),
        ({"fo_optimizer": "mezo"}, "Method 'mezo' is of another kind; here: adam, adamw, sgd"),
        ({"fo_learning_rate": 1.0}, "Method 'hybrid' has no option 'fo_learning_rate'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        make_recipe("hybrid", settings)


def test_the_catalogue_counts_its_passes():
    entry = catalogue.entry("hybrid")
    assert (entry.num_forwards, entry.num_backwards, entry.passes) == (3, 1, "3 and a backward")
    assert entry.class_name is None
    assert entry.family == "Hybrid"
    assert entry in catalogue.entries()
    assert catalogue.num_state_bytes("hybrid", catalogue.adapter_pair()) == 0
