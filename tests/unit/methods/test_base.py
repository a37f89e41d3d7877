"""Recipes: names, options, and the classes made of them."""

import inspect
from dataclasses import MISSING, fields

import pytest

import foretune
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
