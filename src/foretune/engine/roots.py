"""The calls of a closure that several evaluations can share, and the proof that they may."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foretune import noise
from foretune.engine.base import Perturbation
from foretune.engine.ownership import is_called
from foretune.engine.paired import Paired
from foretune.noise import Noise, Purpose
from foretune.types import LossClosure, Trainable

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far losses of one batch or several may be apart, relative, by the coarsest dtype (float32: TF32's rounding)."""


class _Upset(Perturbation):
    """Changes every tensor by half its size: what one row has of another's weights, losses show."""

    def __init__(self, key: int) -> None:
        self._key = key

    def moves(self, trainable: Trainable) -> bool:
        return True

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        size = float(torch.linalg.vector_norm(base, dtype=trainable.compute_dtype)) / math.sqrt(base.numel())
        noise.add(
            out,
            base,
            noise=[(0.5 * size or 0.02, Noise(self._key, trainable.stream, Purpose.DIRECTION))],
            rounding=Noise(self._key, trainable.stream, Purpose.PERTURBATION_ROUNDING),
            rows=rows,
        )


def find_roots(engine: Paired, closure: LossClosure) -> str | None:
    """Set the roots of `engine`, or return why it cannot share any forward between evaluations.

    Roots are the outermost modules that the closure calls on data and that can be called with twice the rows. Two
    evaluations far apart are then made together and one by one: the losses must agree, which they do not where rows of
    a batch are not independent.
    """
    shifts = [_Upset(key) for key in (0, 1)]
    with engine.session():
        wanted = [engine.loss(closure, shift) for shift in shifts]
    engine.roots, engine.attempts = tuple(filter(is_called, engine.model.modules())), {}
    try:
        with engine.session():
            found = engine.losses(closure, shifts)
        attempts = engine.attempts
    finally:
        engine.roots, engine.attempts = (), None

    names = {module: f"'{name}'" if name else "the model" for name, module in engine.model.named_modules()}
    roots = tuple(module for module, reason in attempts.items() if reason is None)
    if not roots:
        reasons = (
            f"{names[module]} cannot be given the rows of several evaluations, for {reason}"
            for module, reason in attempts.items()
        )
        return next(reasons, "the loss calls no module on data alone")
    floats = [p.dtype for p in engine.model.parameters() if p.dtype in _TOLERANCES]
    tolerance = max(_TOLERANCES[dtype] for dtype in floats)
    for one, other in zip(wanted, found, strict=True):
        if not math.isfinite(one):
            return f"a loss at weights far from these is {one}, which does not show whether rows are independent"
        if not math.isclose(one, other, rel_tol=tolerance):
            return f"the rows of a batch are not independent: a loss is {one:.6g} alone and {other:.6g} beside another"
    read = {id(p): p.numel() for root in roots for p in root.parameters()}
    if 2 * sum(read.values()) < sum(p.numel() for p in engine.model.parameters()):
        called = ", ".join(names[root] for root in roots)
        return f"of what the loss calls on data alone ({called}), all together has less than half of the weights"
    engine.roots = roots
    return None
