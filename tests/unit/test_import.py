"""Importing the package is free: nothing heavy is loaded before a name is used."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numba", "transformers", "triton", "numpy", "datasets", "peft")


def newly_loaded(statement: str, *, before: str = "pass") -> set[str]:
    """Which of the heavy packages a statement loads in a fresh interpreter that has run `before`."""
    code = f"import sys\n{before}\nold = set(sys.modules)\n{statement}\n"
    code += f"print(*({{*{HEAVY!r}}} & (sys.modules.keys() - old)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_foretune_loads_nothing_heavy() -> None:
    assert newly_loaded("import foretune") == set()


def test_the_methods_load_torch_alone() -> None:
    assert newly_loaded("from foretune import LOZO, LowRank, Optimizer", before="import torch") == set()


def test_public_names_resolve() -> None:
    import foretune

    for name in dir(foretune):
        if not name.startswith("ZO"):  # the Trainer integration loads transformers; its own tests import it
            assert getattr(foretune, name) is not None
    assert {"MeZO", "LOZO", "LOZOM", "Optimizer", "LowRank"} <= set(dir(foretune))


def test_an_unknown_name_is_an_attribute_error() -> None:
    import foretune

    with pytest.raises(AttributeError, match="no attribute 'MeZo'"):
        _ = foretune.MeZo


def test_a_class_is_made_once() -> None:
    import foretune

    assert foretune.MeZO is foretune.MeZO
