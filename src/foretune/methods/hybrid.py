"""Hybrid ZO-FO training: MeZO on the shallow layers, backpropagation through the deep ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import nn

from foretune.engine import EngineName
from foretune.errors import UsageError
from foretune.hybrid import Hybrid
from foretune.methods.first_order import BASELINES, AbstractFirstOrder
from foretune.methods.mezo import MeZOMethod
from foretune.methods.recipe import RECIPES, AbstractRecipe, build
from foretune.optimizer import Optimizer


@RECIPES.register("hybrid")
@dataclass(frozen=True, kw_only=True)
class HybridRecipe(AbstractRecipe):
    """Hybrid ZO-FO: MeZO on embeddings and the first K layers, a gradient for the other layers and what follows them.

        theta_S <- theta_S - lr * (1/q) sum_k g_k z_k
        g_k = (L(theta_S + zo_eps z_k, theta_D) - L(theta_S - zo_eps z_k, theta_D)) / (2 zo_eps)
        theta_D <- theta_D - fo_lr * (step of fo_optimizer along grad_D L(theta_S, theta_D))

    Both steps start from the same weights. Embeddings and a tied head belong to S, final norm and untied head to D,
    LoRA to the layer it sits in. 2 q + 1 forwards and a partial backward a step: of the layers in S no activation is
    stored. State: that of fo_optimizer on D. A run cannot be replayed; it resumes from its checkpoints.

    Args:
        lr: Learning rate of the shallow part, MeZO's.
        zo_eps: Perturbation scale, MeZO's.
        num_directions: Directions per step (q).
        hybrid_zo_layers: Layers of the shallow part (K), from 0 to all of the model's; default: half of them.
        fo_optimizer: Optimizer of the deep part, with its published settings: sgd, adam or adamw.
        fo_lr: Learning rate of the deep part; default: the published one of fo_optimizer for full tuning.
        weight_decay: Weight decay on the matrices of both parts.
        max_grad_norm: Norm to which a longer gradient of the deep part is scaled; 0 for no clipping.
    References:
        Zhang et al. 2024, arXiv:2402.11592, hybrid ZO-FO training. No code and no settings were published; the
        definition (mode center: the gradient at the weights themselves) is ours.
    """

    paper: ClassVar[str] = "Revisiting Zeroth-Order Optimization for LLM Fine-Tuning, arXiv:2402.11592"
    family: ClassVar[str] = "Hybrid"
    schemes: ClassVar[tuple[str, ...]] = ("full", "lora")
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"lora": MeZOMethod.tuning_defaults["lora"]}
    )

    lr: float = MeZOMethod.lr
    zo_eps: float = MeZOMethod.zo_eps
    num_directions: int = 1
    hybrid_zo_layers: int | None = None
    fo_optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    fo_lr: float | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    @property
    def zo(self) -> MeZOMethod:
        """The method of the shallow part."""
        return MeZOMethod(
            lr=self.lr, zo_eps=self.zo_eps, num_directions=self.num_directions, weight_decay=self.weight_decay
        )

    @property
    def fo(self) -> AbstractFirstOrder:
        """The baseline of the deep part."""
        baseline = BASELINES.get(self.fo_optimizer)
        shared = {"weight_decay": self.weight_decay, "max_grad_norm": self.max_grad_norm}
        return build(baseline, shared if self.fo_lr is None else {**shared, "lr": self.fo_lr})

    def check(self) -> None:
        """Refuse settings of either part that are out of range; how many layers there are, the model will tell."""
        if self.hybrid_zo_layers is not None and self.hybrid_zo_layers < 0:
            raise UsageError(f"hybrid_zo_layers must be 0 or more, got {self.hybrid_zo_layers}.")
        for name in ("lr", "fo_lr"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise UsageError(f"{name} must be 0 or more and finite, got {value}.")
        self.zo.check()
        self.fo.check()

    def optimizer(self, model: nn.Module, *, seed: int = 0, engine: EngineName = "auto") -> Hybrid:
        """Return the optimizer on this model.

        Raises:
            UsageError: there are not as many layers.
            IncompatibleError: the model has none, or cannot be run on tokens alone.
        """
        return Hybrid(
            model,
            hybrid_zo_layers=self.hybrid_zo_layers,
            zo=partial(Optimizer, **self.zo.optimizer_arguments(), seed=seed, engine=engine),
            fo=self.fo.optimizer,
        )


HYBRIDS = RECIPES.of(HybridRecipe)
