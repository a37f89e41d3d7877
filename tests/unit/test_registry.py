"""Names to entries: filled from a package, duplicates refused, near misses suggested."""

import sys
from pathlib import Path

import pytest

from foretune.errors import UsageError
from foretune.registry import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """A registry over a package of two modules that register themselves when they are imported."""
    package = tmp_path / "family_of_two"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from foretune.registry import Registry\nENTRIES = Registry('dish', 'family_of_two')\n"
    )
    for name in ("soup", "salad"):
        (package / f"{name}.py").write_text(
            f"from family_of_two import ENTRIES\nENTRIES.register({name!r})('the {name}')\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    import family_of_two

    yield family_of_two.ENTRIES
    for name in ("family_of_two", "family_of_two.soup", "family_of_two.salad"):
        sys.modules.pop(name, None)


def test_modules_are_found_without_a_list(registry: Registry[str]) -> None:
    assert list(registry) == ["salad", "soup"]
    assert registry.get("soup") == "the soup"


def test_nothing_is_imported_before_it_is_asked_for(registry: Registry[str]) -> None:
    assert "family_of_two.soup" not in sys.modules
    registry.get("salad")
    assert "family_of_two.soup" in sys.modules


def test_an_unknown_name_gets_near_misses_and_the_list(registry: Registry[str]) -> None:
    with pytest.raises(UsageError, match=r"Unknown dish 'soop'\. Did you mean: soup\? Available: salad, soup\."):
        registry.get("soop")
    with pytest.raises(UsageError, match=r"Unknown dish 'bread'\. Available: salad, soup\."):
        registry.get("bread")


def test_a_name_taken_twice_is_refused(registry: Registry[str]) -> None:
    registry.get("soup")
    with pytest.raises(ValueError, match="dish 'soup' is registered twice"):
        registry.register("soup")("another")
    assert registry.get("soup") == "the soup"


def test_an_alias_finds_the_entry_but_is_not_listed(registry: Registry[str]) -> None:
    registry.register("stew", aliases=("soup_thick", "ragout"))("the stew")
    assert registry.get("ragout") == "the stew"
    assert registry.aliases("stew") == ("soup_thick", "ragout")
    assert list(registry) == ["salad", "soup", "stew"]
    with pytest.raises(ValueError, match="dish 'ragout' is registered twice"):
        registry.register("ragout")("another")


def test_a_part_holds_the_classes_of_one_kind_under_names_unique_over_all() -> None:
    class Dish: ...

    class Soup(Dish): ...

    class Salad(Dish): ...

    registry: Registry[type[Dish]] = Registry("dish", "foretune.tasks")
    soups = registry.of(Soup)
    soups.register("soup", aliases=("broth",))(Soup)
    registry.register("salad")(Salad)
    assert list(soups) == ["soup"]
    assert list(registry) == ["salad", "soup"]
    assert soups.get("broth") is registry.get("soup") is Soup
    assert soups.aliases("soup") == ("broth",)
    with pytest.raises(UsageError, match=r"Dish 'salad' is of another kind; here: soup\."):
        soups.get("salad")
    with pytest.raises(UsageError, match=r"Unknown dish 'soop'\. Did you mean: soup\? Available: salad, soup\."):
        soups.get("soop")
    with pytest.raises(ValueError, match="dish 'salad' is registered twice"):
        soups.register("salad")(Soup)
