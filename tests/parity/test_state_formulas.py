"""Bytes of persistent state against the formulas of the papers, written out here and not read off the parts."""

import pytest
from torch import nn

from foretune.methods import METHODS, make_method
from foretune.optimizer import Optimizer, state_bytes
from foretune.parameters import collect_trainables
from toys import LoRALinear

FLOAT = 4
MATRICES = {"first.weight": (6, 10), "second.weight": (7, 6)}
VECTORS = {"first.bias": (6,), "second.bias": (7,)}

FULL = sum(m * n for m, n in MATRICES.values()) + sum(n for (n,) in VECTORS.values())
ALL_VECTORS = sum(n for (n,) in VECTORS.values())


def rho(rank: int, m: int, n: int) -> int:
    return min(rank, m, n)


STATE: dict[str, tuple[dict[str, object], int]] = {
    # the table of methods.md section 10: d trainable numbers, m x r and rho x rho coordinates
    "mezo": ({}, 0),
    "zo_sign": ({}, 0),
    "zo_momentum": ({}, FULL),
    "zo_conservative": ({}, 0),
    "zo_adam": ({}, 2 * FULL),
    "forward_grad": ({}, 0),
    "fzoo": ({}, 0),
    "es": ({}, 0),
    "eggroll": ({}, 0),
    "lozo": ({"rank": 3}, 0),
    "lozo_m": ({"rank": 3}, sum(m * 3 for m, _ in MATRICES.values()) + ALL_VECTORS),
    "subzero": ({"rank": 4}, 0),
    "zo_adamu": ({}, FULL),
    "subzero_adamu": ({"rank": 4}, sum(rho(4, m, n) ** 2 for m, n in MATRICES.values())),
    "subzero_muon": ({"rank": 4}, sum(rho(4, m, n) ** 2 for m, n in MATRICES.values())),
    "zo_muon": ({}, sum(m * n for m, n in MATRICES.values()) + 2 * ALL_VECTORS),
    "hizoo": ({}, FULL),
    "rgs_bcd": ({}, 0),
}
ADAPTERS_ONLY = {"zobcd": 0}
"""Methods that are defined for LoRA alone."""
MEASURED_ELSEWHERE = {"mgs_bcd": "its statistics and masks depend on its settings: tests/unit/methods/test_mgs_bcd.py"}


def model() -> nn.Module:
    return nn.ModuleDict({"first": nn.Linear(10, 6), "second": nn.Linear(6, 7)})


def test_every_method_has_its_formula_here() -> None:
    assert {*STATE, *ADAPTERS_ONLY, *MEASURED_ELSEWHERE} == set(METHODS)


@pytest.mark.parametrize("name", STATE)
def test_state_is_the_published_formula(name: str) -> None:
    options, num_elements = STATE[name]
    parts = make_method(name, options, total_steps=100).parts()
    assert state_bytes(parts, collect_trainables(model())) == FLOAT * num_elements


@pytest.mark.parametrize("name", ADAPTERS_ONLY)
def test_adapter_methods_keep_nothing(name: str) -> None:
    adapted = nn.ModuleDict({"first": LoRALinear(10, 6)})
    assert state_bytes(make_method(name, {}).parts(), collect_trainables(adapted)) == ADAPTERS_ONLY[name]


@pytest.mark.parametrize(
    ("method", "changes", "num_elements"),
    [
        (
            "lozo",
            {"update": {"name": "adam"}, "space": {"rank": 3}},
            2 * (sum(m * 3 for m, _ in MATRICES.values()) + ALL_VECTORS),
        ),
        ("subzero", {"update": {"name": "momentum"}, "space": {"rank": 2}}, 2 * 2 * len(MATRICES) + ALL_VECTORS),
        ("mezo", {"space": {"name": "masked"}}, 0),
        ("mezo", {"space": {"name": "masked", "group": "global"}}, len(MATRICES) + len(VECTORS)),
        ("mezo", {"schedule": {"name": "module_blocks"}}, 0),
    ],
    ids=["lozo x adam", "subzero x momentum", "sparsity", "global sparsity", "blocks"],
)
def test_state_of_free_combinations(method: str, changes: dict[str, object], num_elements: int) -> None:
    parts = make_method(method, changes).parts()
    assert state_bytes(parts, collect_trainables(model())) == FLOAT * num_elements


def test_recomputed_momentum_keeps_a_few_numbers_a_tensor() -> None:
    """K pairs of a float64 coefficient and an int64 key, whatever the size of the tensor."""
    sizes = set()
    for width in (4, 40):
        net = nn.Linear(width, width, bias=False)
        method = make_method("zo_momentum", {"state": "recomputed", "momentum": 0.5})
        sizes.add(Optimizer(net, **method.optimizer_arguments()).state_bytes)
    (size,) = sizes
    num_terms, rest = divmod(size, 16)
    assert rest == 0
    assert 0.5**num_terms <= 1e-3 < 0.5 ** (num_terms - 2)
