"""foretune: fine-tune language models with forward passes only.

    opt = foretune.MeZO(model, lr=1e-6, zo_eps=1e-3)
    loss = opt.step(lambda: model(**batch).loss)

Names are resolved on first use, so importing the package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foretune.hybrid import Hybrid as Hybrid
    from foretune.optimizer import Optimizer as Optimizer
    from foretune.trainer import Diagnostics as Diagnostics
    from foretune.trainer import FOTrainer as FOTrainer
    from foretune.trainer import FOTrainingArguments as FOTrainingArguments
    from foretune.trainer import HybridTrainer as HybridTrainer
    from foretune.trainer import HybridTrainingArguments as HybridTrainingArguments
    from foretune.trainer import ZOTrainer as ZOTrainer
    from foretune.trainer import ZOTrainingArguments as ZOTrainingArguments

    MeZO: type[Optimizer]
    LOZO: type[Optimizer]
    LOZOM: type[Optimizer]
    SubZero: type[Optimizer]
    ZOMuon: type[Optimizer]

__version__ = version("foretune")

_HOMES = {
    "Optimizer": "foretune.optimizer",
    "Hybrid": "foretune.hybrid",
    **dict.fromkeys(
        (
            "Diagnostics",
            "FOTrainer",
            "FOTrainingArguments",
            "HybridTrainer",
            "HybridTrainingArguments",
            "ZOTrainer",
            "ZOTrainingArguments",
        ),
        "foretune.trainer",
    ),
    **dict.fromkeys(("Identity", "LowRank", "Masked", "OneSidedOrthonormal", "Orthonormal"), "foretune.spaces"),
    **dict.fromkeys(
        ("Gaussian", "Rademacher", "HessianScaled", "MomentumGuided", "LowRankProduct"), "foretune.directions"
    ),
    **dict.fromkeys(("TwoSided", "OneSided", "SecondDifference", "ForwardMode", "Population"), "foretune.estimators"),
    **dict.fromkeys(
        ("SGD", "Adam", "AdaMU", "Momentum", "MSign", "Muon", "Sign", "HeavyBall", "Conservative"), "foretune.updates"
    ),
    **dict.fromkeys(
        ("LoRABlocks", "MagnitudeGroups", "ModuleBlocks", "NormScaled", "RandomGroups", "Whole"), "foretune.schedules"
    ),
}


def __getattr__(name: str) -> Any:
    if not name[:1].isupper():  # not a class: perhaps a submodule, which the import system looks for next
        raise AttributeError(f"module 'foretune' has no attribute {name!r}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        from foretune.methods import METHODS, optimizer_class

        classes = {METHODS.get(method).class_name: METHODS.get(method) for method in METHODS}
        if name not in classes:
            raise AttributeError(f"module 'foretune' has no attribute {name!r}")
        value = optimizer_class(classes[name])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    from foretune.methods import METHODS

    return sorted([*globals(), *_HOMES, *(METHODS.get(method).class_name for method in METHODS)])
