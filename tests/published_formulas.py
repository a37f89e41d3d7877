"""MeZO, LOZO and LOZO-M written from their equations in plain PyTorch, whole tensors and all.

The directions are those of `foretune.noise`; everything else (perturbing, differencing, stepping, averaging,
carrying over) is done here a second time, in float64 and without any of the package's parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foretune import noise
from foretune.noise import Noise, Purpose, mix, stream_id

Weights = dict[str, Tensor]
Loss = Callable[[Weights], float]


def draw(name: str, shape: tuple[int, ...], key: int, purpose: Purpose = Purpose.DIRECTION) -> Tensor:
    """Standard normal entries of one tensor."""
    return noise.fill(torch.empty(shape, dtype=torch.float64), Noise(key, stream_id(name), purpose))


def moved(weights: Weights, directions: Weights, coefficient: float) -> Weights:
    """weights + coefficient * directions."""
    return {name: tensor + coefficient * directions[name] for name, tensor in weights.items()}


def two_sided_slope(loss: Loss, weights: Weights, z: Weights, zo_eps: float) -> float:
    """(L(theta + zo_eps z) - L(theta - zo_eps z)) / (2 zo_eps)."""
    return (loss(moved(weights, z, zo_eps)) - loss(moved(weights, z, -zo_eps))) / (2 * zo_eps)


def mezo(
    loss: Loss,
    weights: Weights,
    *,
    num_steps: int,
    lr: float,
    zo_eps: float,
    seed: int,
    num_directions: int = 1,
    one_sided: bool = False,
    weight_decay: float = 0.0,
) -> Weights:
    """theta <- theta - lr * (mean_k g_k z_k + weight_decay * theta on matrices)."""
    for step in range(num_steps):
        estimate = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for query in range(num_directions):
            z = {name: draw(name, tensor.shape, mix(seed, step, query)) for name, tensor in weights.items()}
            if one_sided:
                slope = (loss(moved(weights, z, zo_eps)) - loss(weights)) / zo_eps
            else:
                slope = two_sided_slope(loss, weights, z, zo_eps)
            estimate = moved(estimate, z, slope / num_directions)
        weights = {
            name: tensor - lr * (estimate[name] + (weight_decay * tensor if tensor.dim() >= 2 else 0.0))
            for name, tensor in weights.items()
        }
    return weights


def is_matrix(tensor: Tensor) -> bool:
    """At least two dimensions longer than 1."""
    return sum(size > 1 for size in tensor.shape) >= 2


def lozo(
    loss: Loss,
    weights: Weights,
    *,
    num_steps: int,
    matrix_lr: float,
    vector_lr: float,
    zo_eps: float,
    seed: int,
    rank: int,
    interval: int,
    beta: float = 0.0,
) -> Weights:
    """LOZO-M; with beta = 0 LOZO. The learning rate of matrices is the factor in front of ``g U V^T``.

    N <- g U at first, then beta N + (1 - beta) g U with N V_old^T V_new / n in place of N where V is redrawn;
    W <- W - matrix_lr N V^T. Vectors: N of their own size, V = 1.
    """
    averages: Weights = {}
    bases: Weights = {}
    for step in range(num_steps):
        coordinates, z = {}, {}
        for name, tensor in weights.items():
            key = mix(seed, step)
            if not is_matrix(tensor):
                coordinates[name] = z[name] = draw(name, tensor.shape, key)
                continue
            m, n = tensor.shape[0], tensor[0].numel()
            if step % interval == 0:
                v = draw(name, (rank, n), mix(seed, step // interval), Purpose.RIGHT).T
                if step > 0:
                    averages[name] = averages[name] @ bases[name].T @ v / n
                bases[name] = v
            coordinates[name] = draw(name, (m, rank), key)
            z[name] = (coordinates[name] @ bases[name].T).view(tensor.shape)
        slope = two_sided_slope(loss, weights, z, zo_eps)
        following = {}
        for name, tensor in weights.items():
            fresh = slope * coordinates[name]
            averages[name] = fresh if step == 0 else beta * averages[name] + (1 - beta) * fresh
            if is_matrix(tensor):
                lifted = (averages[name] @ bases[name].T).view(tensor.shape)
                following[name] = tensor - matrix_lr * lifted
            else:
                following[name] = tensor - vector_lr * averages[name]
        weights = following
    return weights
