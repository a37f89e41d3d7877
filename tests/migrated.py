"""What a migrated command means: the configuration that foretune's own parser makes of it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from foretune.cli.options import Options
from foretune.cli.train import parse
from foretune.methods import make_recipe
from foretune.migration import Migration, migrate
from foretune.runs.config import EvaluateConfig, TrainConfig


def migrated(text: str, code: str | None = None) -> Migration:
    """Translate the one command in a text."""
    (migration,) = migrate(text, code).migrations
    return migration


def train_config(migration: Migration) -> TrainConfig:
    """Return the configuration that `foretune train` reads from the command; file and shell words say the same."""
    assert migration.command == "train"
    config = parse(migration.arguments)
    config.check()
    make_recipe(config.method["name"], config.method_options, total_steps=config.steps, tuning=config.tuning["name"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(migration.yaml)
        assert replace(parse(["--config", str(path)]), config=None) == config
    return config


def evaluate_config(migration: Migration) -> EvaluateConfig:
    """Return the configuration that `foretune evaluate` reads from the command."""
    assert migration.command == "evaluate"
    config = Options("evaluate", "", EvaluateConfig).parse(migration.arguments)
    config.check()
    return config


def asked(config: TrainConfig) -> dict[str, Any]:
    """Return what a run sets, without what keeps its default: nested settings dotted, output left out."""
    default = TrainConfig()
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": setting for key, setting in value.items() if setting is not None}
        elif value != getattr(default, name) and name != "output":
            found[name] = value
    return found


def told(migration: Migration, kind: str) -> dict[str, str]:
    """Return the texts of notes of a kind, by what they are about."""
    return {note.subject: note.text for note in migration.notes if note.kind == kind}
