"""`foretune methods`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from foretune.cli.options import Options

if TYPE_CHECKING:
    from foretune.catalogue import Entry


@dataclass(kw_only=True)
class MethodsConfig:
    """`foretune methods`: what is shown."""

    name: str | None = field(default=None, metadata={"help": "Method to show; default: all of them."})
    model: str | None = field(
        default=None, metadata={"help": "Model (folder or hub id) for which optimizer state is counted, full tuning."}
    )
    revision: str | None = field(default=None, metadata={"help": "Revision of a hub model."})


def run(arguments: Sequence[str]) -> None:
    """List the methods, or describe the one that is named."""
    words = list(arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else None
    options = Options("methods", "List the methods, or show one: foretune methods NAME.", MethodsConfig)
    config = options.parse([*words, *(["--name", name] if name is not None else [])])

    from foretune import catalogue

    states = _states(config) if config.model else {}
    if config.name is None:
        _print_list(catalogue.entries(), states)
    else:
        _print_method(catalogue.entry(config.name), states)


def _states(config: MethodsConfig) -> dict[str, int]:
    """Return the bytes of optimizer state of every method on the model."""
    from foretune import catalogue
    from foretune.methods import RECIPES
    from foretune.runs.loading import check_model_path

    check_model_path(config.model or "")
    trainables = catalogue.trainables_of(config.model or "", revision=config.revision)
    return {
        name: catalogue.num_state_bytes(name, trainables) for name in RECIPES if "full" in RECIPES.get(name).schemes
    }


def _print_list(entries: Sequence[Entry], states: dict[str, int]) -> None:
    from foretune.cli.tables import print_table

    columns = ["name", "family", "forwards a step", *(["state, MB"] if states else []), "lr", "zo_eps", "arXiv"]
    rows = []
    for entry in entries:
        defaults = {option.name: option.default for option in entry.options}
        state = [f"{states[entry.name] / 1e6:.1f}" if entry.name in states else "-"] if states else []
        figures = [entry.passes, *state, defaults["lr"], defaults.get("zo_eps", "-")]
        rows.append(
            (entry.name, entry.family, *figures, ", ".join(re.findall(r"arXiv:(\S+?)(?=[,\s]|$)", entry.paper)))
        )
    print_table("Methods (foretune methods NAME shows one)", columns, rows)


def _print_method(entry: Entry, states: dict[str, int]) -> None:
    from foretune.cli.tables import print_table

    print(entry.description)
    print()
    rows = [(f"--method.{option.name}", option.default, option.meaning) for option in entry.options]
    print_table(f"Options of {entry.name}", ("option", "default", "meaning"), rows)
    also = f", also spelled {', '.join(entry.aliases)}" if entry.aliases else ""
    python = f"; in Python foretune.{entry.class_name}" if entry.class_name else ""
    print(f"Name: {entry.name}{also}{python}; tuning: {', '.join(entry.schemes)}")
    if entry.name in states:
        print(f"Optimizer state: {states[entry.name] / 1e6:.1f} MB")
    print(f"Paper: {entry.paper}")
    print(entry.notes)
