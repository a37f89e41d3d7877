"""What recipes, help texts and generated pages say is what is; tests/documents play the pages themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from foretune.cli.main import COMMANDS, main
from foretune.cli.train import parse
from foretune.methods import make_method

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid_configurations(recipe):
    config = parse(["--config", str(recipe), "--output", "runs/x"])
    config.check()
    make_method(config.method["name"], config.method_options)


def test_readme_names_every_command():
    for command in COMMANDS:
        assert f"`foretune {command}" in README


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert "usage: foretune" in capsys.readouterr().out


def test_methods_lists_and_describes(capsys):
    assert main(["methods"]) == 0
    assert "lozo_m" in capsys.readouterr().out
    assert main(["methods", "mezo"]) == 0
    assert "--method.zo_eps" in capsys.readouterr().out


def test_methods_counts_the_state_on_a_model(tiny_model, capsys):
    """lozo_m keeps rank numbers a row and every vector: counted here from the model itself."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    expected = sum(p.shape[0] * (2 if p.dim() == 2 else 1) * 4 for p in model.parameters())
    assert main(["methods", "lozo_m", "--model", str(tiny_model)]) == 0
    assert f"Optimizer state: {expected / 1e6:.1f} MB" in capsys.readouterr().out
    assert main(["methods", "--model", str(tiny_model / "missing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_the_methods_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import generate_methods

    assert generate_methods.PAGE.read_text() == generate_methods.page(), "run `make docs`"


def test_the_tasks_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import generate_tasks

    assert generate_tasks.PAGE.read_text() == generate_tasks.page(), "run `make docs`"


def test_the_migration_page_is_current(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import generate_coming_from

    assert generate_coming_from.PAGE.read_text() == generate_coming_from.page(), "run `make docs`"


def test_env_names_versions(capsys):
    import torch

    assert main(["env"]) == 0
    assert torch.__version__.split("+")[0] in capsys.readouterr().out
