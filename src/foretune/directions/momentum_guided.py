"""Directions that remember: fresh noise mixed with the direction before (ZO-AdaMU)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from foretune.directions.annealing import annealed, check_annealing
from foretune.errors import IncompatibleError, UsageError, near_misses
from foretune.matrices import as_coordinates, as_matrices, newton_schulz_
from foretune.noise import Noise, Purpose
from foretune.types import AbstractDirection, Combination, Draw, Parts, TensorState, Trainable

STATE = "perturbation_momentum"
REFRESHES = ("project", "reset")


class Shares(NamedTuple):
    """alpha, beta1 and beta2 of one update."""

    alpha: float
    beta1: float
    beta2: float


@dataclass(frozen=True, kw_only=True)
class MomentumGuided(AbstractDirection):
    """The direction m mixes fresh noise with a noisy memory of the direction before.

        fresh    =           sqrt(alpha) z                      z, xi ~ N(0, 1)
        history  = m_{t-1} + sqrt(1 - alpha) xi
        m_t      = beta1 fresh + (1 - beta1) history            m_{-1} = 0

    alpha, beta1 and beta2 are 1 for the first t1 updates of a tensor (m = z: plain Gaussian), then are annealed to
    their targets (`annealing.py`). Of a mean estimate g m the gradient is left with the factor
    ``beta1^2 alpha + (1 - beta1)^2 (1 - alpha)``, beside a pull along m_{t-1}; at the default targets 0.41, and the
    variance of m settles at 0.414.

    A draw has two parts, ``sqrt(beta2) fresh`` and ``sqrt(1 - beta2) history``, whose squares add up to the
    uncertainty v that `AdaMU` divides by. State: m, one number per coordinate, float32 (float64 for float64 weights),
    a function of the seed and of how often the tensor was updated, not of losses.

    Args:
        t1, t2, t3: Ends of the warm-up, of the annealing, and of the run, in updates of the tensor itself.
            Published: 1024, 0.8 and 1 times the length of the run.
        alpha_target: Variance of the fresh noise from t2 on; the noise of the memory has the rest.
        beta1_target: Share of the fresh part in m from t2 on.
        beta2_target: Share of the fresh part in v from t2 on.
        phi_alpha, phi_beta1, phi_beta2: Shapes of the three descents.
        matrices_only: Vectors (biases, norm weights) keep plain Gaussian directions, without state or parts.
        orthogonalize: From t2 on, the direction of a matrix is m with its singular values pulled together
            (Newton-Schulz in coordinates), as long as m; the memory itself is not changed.
        on_refresh: When the space changes its basis, ``project`` carries m over, ``reset`` forgets it.
    Raises:
        UsageError: a setting out of range.
    References:
        Jiang et al. 2024, arXiv:2312.15184, Algorithm 1 and equations 3 to 7.
        Differs from the published code: the update follows the measured m (there the two mix with different
        weights), and the schedule does not change while it is read.
    """

    part_names: ClassVar[tuple[str, ...]] = ("fresh", "history")

    t1: int = 5_000
    t2: int = 10_000
    t3: int = 20_000
    alpha_target: float = 0.5
    beta1_target: float = 0.9
    beta2_target: float = 0.01
    phi_alpha: float = 1.0
    phi_beta1: float = 0.1
    phi_beta2: float = 1.5
    matrices_only: bool = False
    orthogonalize: bool = False
    on_refresh: Literal["project", "reset"] = "project"

    def __post_init__(self) -> None:
        check_annealing(
            self.t1,
            self.t2,
            self.t3,
            targets={name: getattr(self, name) for name in ("alpha_target", "beta1_target", "beta2_target")},
            phis={name: getattr(self, name) for name in ("phi_alpha", "phi_beta1", "phi_beta2")},
        )
        if self.on_refresh not in REFRESHES:
            raise UsageError(f"Unknown on_refresh {self.on_refresh!r}.{near_misses(str(self.on_refresh), REFRESHES)}")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse several directions a step: there is one memory, which has to follow one direction."""
        if parts.estimator.num_directions != 1:
            raise IncompatibleError(
                f"MomentumGuided remembers one direction of each step, so it needs num_directions=1, "
                f"got {parts.estimator.num_directions}."
            )

    def shares(self, num_updates: int) -> Shares:
        """Return alpha, beta1 and beta2 after this many updates of a tensor."""
        times = {"t1": self.t1, "t2": self.t2, "t3": self.t3}
        return Shares(
            annealed(num_updates, target=self.alpha_target, phi=self.phi_alpha, **times),
            annealed(num_updates, target=self.beta1_target, phi=self.phi_beta1, **times),
            annealed(num_updates, target=self.beta2_target, phi=self.phi_beta2, **times),
        )

    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return m of this tensor and key, and the parts whose squares make v."""
        if self._is_plain(trainable):
            return Draw(Combination(noise=((1.0, Noise(key, trainable.stream, Purpose.DIRECTION)),)))
        beta2 = self.shares(state.num_updates).beta2
        fresh, history, vector = self._ingredients(trainable, state, key)
        if self.orthogonalize and state.num_updates >= self.t2 and trainable.matrix_shape is not None:
            vector = _orthogonalized(vector.materialize(coordinate_shape, trainable.parameter), trainable)
        parts = {"fresh": fresh.scaled(math.sqrt(beta2)), "history": history.scaled(math.sqrt(1.0 - beta2))}
        return Draw(vector, parts)

    def advance(
        self,
        trainable: Trainable,
        state: TensorState,
        *,
        keys: Sequence[int],
        step: int,
        coordinate_shape: tuple[int, ...],
        scalars: tuple[float, ...],
    ) -> None:
        """Keep m_t in the place of m_{t-1}."""
        if self._is_plain(trainable):
            return
        *_, vector = self._ingredients(trainable, state, keys[0])
        if vector.dense is None:
            state.tensors[STATE] = vector.materialize(coordinate_shape, trainable.parameter)
        else:
            share, memory = vector.dense
            replace(vector, dense=None).add_to(memory, memory, scale=share)

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate; none for a tensor that keeps plain Gaussian directions."""
        return 0 if self._is_plain(trainable) else math.prod(coordinate_shape)

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Carry m over, or forget it."""
        change = torch.zeros_like if self.on_refresh == "reset" else transport
        return {STATE: change(tensors[STATE])} if STATE in tensors else {}

    def _is_plain(self, trainable: Trainable) -> bool:
        return self.matrices_only and trainable.matrix_shape is None

    def _ingredients(
        self, trainable: Trainable, state: TensorState, key: int
    ) -> tuple[Combination, Combination, Combination]:
        """Return the fresh part, the history and m_t."""
        alpha, beta1, _ = self.shares(state.num_updates)
        memory = state.tensors.get(STATE)
        fresh, history = (
            Combination(noise=((math.sqrt(variance), Noise(key, trainable.stream, purpose)),))
            for variance, purpose in ((alpha, Purpose.DIRECTION), (1.0 - alpha, Purpose.HISTORY))
        )
        if memory is not None:
            history += Combination(dense=(1.0, memory))
        return fresh, history, fresh.scaled(beta1) + history.scaled(1.0 - beta1)


def _orthogonalized(vector: Tensor, trainable: Trainable) -> Combination:
    """Return the coordinates of a matrix with its singular values pulled together and its norm kept."""
    matrices = as_matrices(vector, trainable)
    before = torch.linalg.matrix_norm(matrices, keepdim=True)
    after = torch.linalg.matrix_norm(newton_schulz_(matrices), keepdim=True)
    return Combination(dense=(1.0, as_coordinates(matrices.mul_(before / after), vector.shape)))
