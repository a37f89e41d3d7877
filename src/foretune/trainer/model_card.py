"""Model cards: what was tuned, how, and what came out, in the form of the Hugging Face hub.

A card holds no times and no paths, so that equal runs have equal cards.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from peft import PeftModel, PeftType
from torch import nn
from transformers import PreTrainedModel

from foretune.composition import AXES
from foretune.hub import is_local
from foretune.methods import RECIPES, AbstractFirstOrder, AbstractRecipe, HybridRecipe

CARD_NAME = "README.md"

_KINDS: Mapping[str, str] = {"CausalLM": "text-generation", "MaskedLM": "fill-mask"}
"""What the hub calls the task of a head, by the end of its class's name."""


def base_name(base: str) -> str:
    """Return what a card calls the base model: its id on the hub, or the name of its folder."""
    return Path(base).name if is_local(base) else base


def recipe_name(recipe: AbstractRecipe) -> str:
    """Return the registered name of a method, also of one with replaced parts."""
    return recipe.describe()["name"]


def metadata(
    model: nn.Module,
    recipe: AbstractRecipe,
    *,
    base: str | None,
    task: str | None = None,
    datasets: Sequence[str] = (),
    figures: Mapping[str, float] | None = None,
    **fields: Any,
) -> ModelCardData:
    """Return the head of a card, by which the hub finds and shows a model.

    Args:
        model: The tuned model.
        recipe: How it was tuned.
        base: Its base model, an id on the hub or a folder; a folder is not named. None for one without a name.
        task: What its figures are of.
        datasets: Ids of the hub datasets it was tuned on.
        figures: Its metrics by name.
        fields: Others of `ModelCardData`, such as license or language; they win.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    kind = next((kind for ending, kind in _KINDS.items() if type(inner).__name__.endswith(ending)), None)
    on_hub = None if base is None or is_local(base) else base
    tags = ["foretune", recipe_name(recipe)]
    tags += [] if isinstance(recipe, AbstractFirstOrder) else ["zeroth-order"]
    if isinstance(model, PeftModel):  # as peft's own cards are tagged
        tags += ["transformers", _adapter_kind(model)]
        tags += [f"base_model:adapter:{on_hub}"] if on_hub else []
    name = f"{base_name(base) if base else type(inner).__name__} tuned with {recipe_name(recipe)}"
    results = [
        EvalResult(
            task_type=kind or "other",
            dataset_type=datasets[0] if datasets else "local",
            dataset_name=task or "evaluation rows",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in (figures or {}).items()
        if math.isfinite(value)
    ]
    library = "peft" if isinstance(model, PeftModel) else "transformers" if isinstance(model, PreTrainedModel) else None
    own: dict[str, Any] = {
        "base_model": on_hub,
        "library_name": library,
        "pipeline_tag": kind,
        "datasets": list(datasets) or None,
        "metrics": [name for name in figures or {} if name != "loss"] or None,
        "model_name": name,
        "eval_results": results or None,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    return ModelCardData(**own | given | {"tags": tags + list(given.get("tags", ()))})


def make_card(data: ModelCardData, title: str, summary: str, sections: Mapping[str, Sequence[str]]) -> ModelCard:
    """Return a card of a head, a title, a paragraph, and paragraphs under headings; empty sections are left out."""
    parts = [f"# {title}", summary]
    for heading, paragraphs in sections.items():
        if any(paragraphs):
            parts += [f"## {heading}", *filter(None, paragraphs)]
    if data.eval_results is None:
        data.pop("model_name")  # of the figures alone
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def save_card(card: ModelCard, folder: Path) -> None:
    """Write a card into a folder."""
    card.save(folder / CARD_NAME)


def describe_method(recipe: AbstractRecipe) -> str:
    """Name a method and what kind it is."""
    name = recipe_name(recipe)
    if isinstance(recipe, AbstractFirstOrder):
        return f"the first-order baseline `{name}`, by backpropagation"
    if isinstance(recipe, HybridRecipe):
        return f"the hybrid method `{name}`: zeroth-order steps in the first layers, backpropagation in the rest"
    return f"the zeroth-order method `{name}`, with forward passes only"


def describe_tuning(model: nn.Module) -> str:
    """Say which tensors of a model are tuned."""
    if isinstance(model, PeftModel):
        return f"An adapter ({_adapter_kind(model)}) of"
    return "All weights of"


def method_section(recipe: AbstractRecipe, settings: Mapping[str, Any]) -> list[str]:
    """Return what a card says of the method: its paper, and every setting.

    Args:
        recipe: The method.
        settings: Of the run: scheme, engine, steps, batch size, seed, ...
    """
    own = {name: value for name, value in recipe.describe().items() if name != "name"}
    paper = RECIPES.get(recipe_name(recipe)).paper
    cited = re.sub(r"arXiv:([\w.]+?)(?=[,\s]|$)", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    changed = [axis for axis in AXES if axis in own]
    replaced = f" Changed here: its {' and '.join(changed)}." if changed else ""
    return [f"{cited}.{replaced}", table(("setting", "value"), flat({**own, **settings}))]


def origins(*, weights_hash: str, record: Path | None, **hashes: str) -> str:
    """Return a table of digests that tell whether files and weights are those of the run.

    Args:
        weights_hash: `hash_weights` of the base model.
        record: The run's journal; None where there is none.
        hashes: Further digests, by what they are of.
    """
    rows = {"weights before tuning (`foretune.journal.hash_weights`)": weights_hash}
    rows |= {what.replace("_", " "): digest for what, digest in hashes.items()}
    if record is not None:
        rows[f"`{record.name}`"] = hash_file(record)
    return table(("SHA-256 of", ""), rows.items())


def versions(model: nn.Module) -> str:
    """Name the packages that matter for a run, with their versions."""
    names = ("foretune", "torch", "transformers", *(("peft",) if isinstance(model, PeftModel) else ()))
    return "Made with " + ", ".join(f"{name} {version(name)}" for name in names) + "."


def rollbacks_section(rollbacks: Sequence[Any]) -> list[str]:
    """Return what a card says of the times that a run went back to an earlier step."""
    if not rollbacks:
        return []
    columns = list(dict.fromkeys(name for rollback in rollbacks for name in rollback))
    rows = [[show(rollback.get(name)) for name in columns] for rollback in rollbacks]
    return ["The run diverged, and went back to an earlier step:", table([c.replace("_", " ") for c in columns], rows)]


def figures_table(of: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with a line for each model and a column for each metric."""
    names = list(dict.fromkeys(name for metrics in figures.values() for name in metrics))
    rows = [
        (label, *(f"{metrics[name]:.4f}" if name in metrics else "" for name in names))
        for label, metrics in figures.items()
        if metrics
    ]
    return table((of, *names), rows) if rows else ""


def table(header: Sequence[str], rows: Any) -> str:
    """Return a table in Markdown; what would break a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return settings by dotted names, as texts; those without a value are left out."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        elif value is not None:
            lines.append((f"{prefix}{name}", show(value)))
    return lines


def show(value: Any) -> str:
    """Write a value in a cell."""
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(show, value)) if isinstance(value, list | tuple) else str(value)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapter_kind(model: PeftModel) -> str:
    return PeftType(model.active_peft_config.peft_type).value.lower().replace("_", "-")


def _cell(text: Any) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", "\\n")
