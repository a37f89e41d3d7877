"""Options, commands and classes that pages name in the middle of a sentence are there."""

from __future__ import annotations

import dataclasses
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import foretune
from foretune.adapters import TUNINGS
from foretune.cli.main import COMMANDS, main
from foretune.composition import AXES, part_classes
from foretune.methods import RECIPES
from pages import PAGES, name, prose_of

ACTIONS = {
    "bench": ("memory", "step"),
    "data": ("fetch",),
    "runs": ("list", "show", "compare", "export", "import"),
    "sweep": ("work",),
}
ABOUT_OTHERS = {"docs/coming-from.md", "docs/bad-inputs.md"}
"""Pages about options of other programs, and about wrong ones."""
MADE_UP = {"ClassName", "NAME", "LOZOAdam"}
"""Placeholders, and the class that a page adds."""
_FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Every option of every command, as its help names it, and the settings of all methods, schemes and parts."""
    flags = {"--help", *(f"--{group}" for group in ("method", "tuning", *AXES))}
    for command in COMMANDS:
        for action in ((), *((action,) for action in ACTIONS.get(command, ()))):
            flags |= set(_FLAG.findall(help_of(command, *action)))
    settings = [("method", RECIPES.get(method)) for method in RECIPES] + [("tuning", TUNINGS[name]) for name in TUNINGS]
    settings += [(axis, part) for axis in AXES for part in part_classes(axis).values()]
    return flags | {f"--{group}.{field.name}" for group, kind in settings for field in dataclasses.fields(kind)}


def help_of(*words: str) -> str:
    """Return what `--help` of a command prints."""
    output = StringIO()
    with redirect_stdout(output):
        assert main([*words, "--help"]) == 0
    return output.getvalue()


def spans(page: Path) -> list[str]:
    """Return what stands in backquotes in the text of a page."""
    return re.findall(r"`([^`]+)`", prose_of(page))


@pytest.mark.parametrize("page", [page for page in PAGES if name(page) not in ABOUT_OTHERS], ids=name)
def test_options_in_the_text_are_those_of_a_command(page, known):
    for span in spans(page):
        if not span.startswith(("python ", "pip ", "wandb ")):
            assert set(_FLAG.findall(span)) <= known | {"--method.NAME"}, span


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_and_classes_in_the_text_are_there(page):
    text = "\n".join(spans(page))
    assert set(re.findall(r"(?m)^foretune ([a-z]+)\b", text)) <= {*COMMANDS}
    classes = set(re.findall(r"\bforetune\.([A-Z]\w+)", text)) - MADE_UP
    assert not [found for found in classes if not hasattr(foretune, found)]
