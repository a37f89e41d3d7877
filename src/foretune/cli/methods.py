"""`foretune methods`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence

from foretune.errors import UsageError


def run(arguments: Sequence[str]) -> None:
    """List the methods, or describe the one that is named."""
    from foretune.cli.display import print_table
    from foretune.methods import METHODS, option_help

    if {"-h", "--help"} & set(arguments):
        print("usage: foretune methods [NAME]")
        return
    if len(arguments) > 1:
        raise UsageError(f"foretune methods takes one name, got {len(arguments)}.")
    if not arguments:
        rows = [(name, METHODS.get(name).class_name, METHODS.get(name).paper) for name in METHODS]
        print_table("Methods", ("name", "class", "paper"), rows)
        return
    recipe = METHODS.get(arguments[0])
    texts = option_help(recipe)
    print(inspect.cleandoc(recipe.__doc__ or "").split("\nArgs:")[0].rstrip())
    rows = [(f"--method.{f.name}", str(f.default), texts.get(f.name, "")) for f in dataclasses.fields(recipe)]
    print_table(f"Options of {arguments[0]}", ("option", "default", "meaning"), rows)
    print(f"Paper: {recipe.paper}")
