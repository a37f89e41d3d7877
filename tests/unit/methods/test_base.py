"""Recipes: names, options, and the classes made of them."""

import inspect
from dataclasses import MISSING, fields

import pytest

import foretune
from foretune.composition import AXES, part_classes
from foretune.errors import UsageError
from foretune.methods import METHODS, make_method
from foretune.methods.base import method_name
from toys import TOYS, Regression


def test_the_registry_lists_the_published_names() -> None:
    assert {"mezo", "lozo", "lozo_m"} <= set(METHODS)
    assert [METHODS.get(name).class_name for name in ("mezo", "lozo", "lozo_m")] == ["MeZO", "LOZO", "LOZOM"]


def test_an_unknown_method_gets_near_misses() -> None:
    with pytest.raises(UsageError, match=r"Unknown method 'loz'\. Did you mean: .*lozo.*\? Available: .*mezo"):
        make_method("loz", {})


def test_an_unknown_option_gets_near_misses() -> None:
    with pytest.raises(UsageError, match=r"Method 'lozo' has no option 'ranc'\. Did you mean: rank\?"):
        make_method("lozo", {"ranc": 2})
    with pytest.raises(UsageError, match=r"Method 'mezo' has no option 'rank'"):
        foretune.MeZO(Regression(), rank=2)


def test_a_setting_out_of_range_is_found_before_there_is_a_model() -> None:
    with pytest.raises(UsageError, match="rank must be at least 1"):
        make_method("lozo", {"rank": 0})
    with pytest.raises(UsageError, match=r"Unknown estimator 'two_side'\. Did you mean: two_sided"):
        make_method("mezo", {"estimator": "two_side"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "lozo",
            {"rank": 4, "space": {"name": "identity"}},
            r"rank=4 .* it is for the space of 'lozo', overridden by space='identity'\. Drop",
        ),
        ("lozo", {"rank": 4, "space": {"rank": 8}}, r"rank=4 would have no effect: .* overridden by space\.rank=8"),
        (
            "lozo",
            {"rank": 4, "space": {"name": "orthonormal", "rank": 8}},
            r"space='orthonormal', space\.rank=8\. Drop",
        ),
        (
            "lozo_m",
            {"beta": 0.5, "update": {"name": "sgd"}},
            "beta=0.5 .* the update of 'lozo_m', overridden by update='sgd'",
        ),
        ("zo_adamu", {"total_steps": 9, "direction": {"name": "gaussian"}, "update": {"name": "sgd"}}, "total_steps=9"),
        ("zo_momentum", {"state": "recomputed", "update": {"name": "adam"}}, "state='recomputed' would have no effect"),
        ("zobcd", {"bcd_steps_a": 5, "schedule": {"name": "whole"}}, "bcd_steps_a=5 .* the schedule of 'zobcd'"),
        (
            "subzero_adamu",
            {"vector_adamu": True, "direction": {"name": "gaussian"}, "update": {"name": "sgd"}},
            "it is for the direction and update of 'subzero_adamu', overridden by direction='gaussian', update='sgd'",
        ),
    ],
    ids=str,
)
def test_an_option_without_effect_on_the_parts_asked_for_is_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_method(name, options)


def test_the_class_refuses_an_option_without_effect() -> None:
    with pytest.raises(UsageError, match="rank=4 would have no effect"):
        foretune.LOZO(Regression(), rank=4, space={"name": "identity"})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lozo", {"rank": 4, "space": {"name": "orthonormal"}}),
        ("lozo", {"rank": 4, "schedule": {"matrix_lr_scale": 1.0}}),  # which rank sets as well, but is not for
        ("lozo", {"matrix_lr_scale": 3.0, "space": {"name": "identity"}}),
        ("lozo", {"lr": 1.0, "zo_eps": 0.1, "num_directions": 3, "space": {"name": "identity"}}),
        ("mezo", {"weight_decay": 0.1, "update": {"name": "adam"}}),
        ("subzero_adamu", {"vector_adamu": True, "update": {"name": "sgd"}}),
        ("zo_sign", {"sign_mode": "scalar", "update": {"name": "momentum"}}),
    ],
    ids=str,
)
def test_an_option_is_accepted_that_some_part_still_follows(name: str, options: dict[str, object]) -> None:
    make_method(name, options)


@pytest.mark.parametrize("name", list(METHODS))
def test_defaults_are_never_without_effect(name: str) -> None:
    """Whatever part is replaced, and also where the defaults are those of a scheme and the run's length is known."""
    recipe = METHODS.get(name)
    defaults = {field.name: field.default for field in fields(recipe)}
    for axis in AXES:
        for part in part_classes(axis):
            make_method(name, {axis: {"name": part}}, total_steps=400, tuning=recipe.schemes[-1])
            make_method(name, {**defaults, axis: {"name": part}})


@pytest.mark.parametrize("name", list(METHODS))
def test_the_class_carries_the_settings(name: str) -> None:
    recipe = METHODS.get(name)
    optimizer_class = getattr(foretune, recipe.class_name)
    assert issubclass(optimizer_class, foretune.Optimizer)
    assert optimizer_class.__name__ == recipe.class_name
    assert method_name(recipe) == name
    signature = inspect.signature(optimizer_class)
    for field in fields(recipe):
        assert field.default is not MISSING
        assert signature.parameters[field.name].default == field.default
    assert next(iter(signature.parameters)) == "model"
    assert list(signature.parameters)[-2:] == ["seed", "engine"]
    optimizer = optimizer_class(TOYS[recipe.schemes[0]].regression(), **recipe.toy.options)
    settings = {field.name: field.default for field in fields(recipe)} | recipe.toy.options
    assert optimizer.method == {"name": name, **settings}
    assert optimizer.lr == settings["lr"]
