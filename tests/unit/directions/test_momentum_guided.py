"""Directions that remember: the recursion, its stationary variance, and what becomes of a gradient in it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foretune import noise
from foretune.directions import Gaussian, MomentumGuided
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import TwoSided
from foretune.matrices import newton_schulz
from foretune.noise import Noise, Purpose
from foretune.optimizer import Optimizer
from foretune.spaces import LowRank
from foretune.types import TensorState, Trainable
from promised import run
from toys import Quadratic, assert_mean, trainables_of

TARGETS = {"alpha_target": 0.5, "beta1_target": 0.9, "beta2_target": 0.01}
C_SQUARED = 0.9**2 * 0.5 + 0.1**2 * 0.5
"""What is left of the gradient at the targets: beta1^2 alpha + (1 - beta1)^2 (1 - alpha) = 0.41."""


def settled(**options: object) -> MomentumGuided:
    """At its targets from the first update on."""
    return MomentumGuided(t1=0, t2=0, t3=1, **options)


def standard(trainable: Trainable, shape: tuple[int, ...], key: int, purpose: Purpose) -> Tensor:
    return noise.fill(torch.empty(shape, dtype=torch.float64), Noise(key, trainable.stream, purpose))


def test_against_the_recursion() -> None:
    """m, and v as the sum of the squares of the parts, over warm-up, annealing and after."""
    (trainable,) = trainables_of(w=(3, 4))
    direction, state, shape = MomentumGuided(t1=2, t2=6, t3=9), TensorState(), (3, 4)
    memory = torch.zeros(shape, dtype=torch.float64)
    for step in range(9):
        alpha, beta1, beta2 = direction.shares(step)
        fresh = math.sqrt(alpha) * standard(trainable, shape, 100 + step, Purpose.DIRECTION)
        history = memory + math.sqrt(1 - alpha) * standard(trainable, shape, 100 + step, Purpose.HISTORY)
        memory = beta1 * fresh + (1 - beta1) * history
        v = beta2 * fresh**2 + (1 - beta2) * history**2
        draw = direction.draw(trainable, state, key=100 + step, step=step, coordinate_shape=shape)
        vector, *parts = (
            combination.materialize(shape, trainable.parameter)
            for combination in (draw.vector, draw.parts["fresh"], draw.parts["history"])
        )
        torch.testing.assert_close(vector, memory, rtol=0, atol=1e-14)
        torch.testing.assert_close(sum(part.square() for part in parts), v, rtol=0, atol=1e-14)
        assert set(draw.parts) == set(direction.part_names)
        direction.advance(
            trainable, state, keys=[100 + step], step=step, coordinate_shape=shape, scalars=(float(step),)
        )
        state.num_updates += 1
        torch.testing.assert_close(state.tensors["perturbation_momentum"], memory, rtol=0, atol=1e-14)


def test_before_t1_it_is_gaussian_to_the_bit() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    direction, state = MomentumGuided(t1=3, t2=4, t3=5), TensorState()
    for step in range(3):
        draw, plain = (
            law.draw(trainable, state, key=step, step=step, coordinate_shape=(3, 4)).vector.materialize(
                (3, 4), trainable.parameter
            )
            for law in (direction, Gaussian())
        )
        assert torch.equal(draw, plain)
        direction.advance(trainable, state, keys=[step], step=step, coordinate_shape=(3, 4), scalars=(1.0,))
        state.num_updates += 1


def test_the_schedule_counts_the_tensors_own_updates() -> None:
    """Not the steps of the run: a tensor that rests does not age."""
    (trainable,) = trainables_of(w=(3, 4))
    direction = MomentumGuided(t1=2, t2=2, t3=2)
    terms = [
        direction.draw(trainable, TensorState(num_updates=count), key=1, step=step, coordinate_shape=(3, 4))
        for count, step in ((1, 50), (2, 2))
    ]
    coefficients = [[coefficient for coefficient, _ in draw.vector.noise] for draw in terms]
    assert coefficients[0] == [1.0, 0.0]
    assert coefficients[1] == pytest.approx([0.9 * math.sqrt(0.5), 0.1 * math.sqrt(0.5)])


def test_stationary_variance() -> None:
    """c^2 / (1 - (1 - beta1)^2) = 0.4141 at the targets."""
    (trainable,) = trainables_of(w=(20_000,))
    direction, state = settled(), TensorState()
    for step in range(12):
        direction.advance(trainable, state, keys=[step], step=step, coordinate_shape=(20_000,), scalars=())
        state.num_updates += 1
    memory = state.tensors["perturbation_momentum"]
    variance = C_SQUARED / (1 - 0.1**2)
    assert variance == pytest.approx(0.4141, abs=1e-4)
    assert_mean(torch.stack([memory, memory.square()], dim=1), torch.tensor([0.0, variance]))


def test_mean_estimate_given_the_memory() -> None:
    """E[g m | m_{t-1}] = c^2 gradient + (1 - beta1)^2 m_{t-1} m_{t-1}^T gradient."""
    d, num = 5, 40_000
    generator = torch.Generator().manual_seed(0)
    gradient, memory = (torch.randn(d, generator=generator, dtype=torch.float64) for _ in range(2))
    (trainable,) = trainables_of(w=(num, d))
    state = TensorState({"perturbation_momentum": memory.expand(num, d).contiguous()}, num_updates=3)
    draw = settled(beta1_target=0.6).draw(trainable, state, key=5, step=0, coordinate_shape=(num, d))
    m = draw.vector.materialize((num, d), trainable.parameter)
    c_squared = 0.6**2 * 0.5 + 0.4**2 * 0.5
    assert_mean((m @ gradient)[:, None] * m, c_squared * gradient + 0.4**2 * memory * (memory @ gradient))


def test_vectors_stay_plain_where_matrices_only() -> None:
    matrix, vector = trainables_of(a=(3, 4), b=(4,))
    direction, state = settled(matrices_only=True), TensorState()
    draw = direction.draw(vector, state, key=1, step=0, coordinate_shape=(4,))
    assert draw == Gaussian().draw(vector, state, key=1, step=0, coordinate_shape=(4,))
    direction.advance(vector, state, keys=[1], step=0, coordinate_shape=(4,), scalars=(1.0,))
    assert state.tensors == {}
    assert direction.num_state_elements(vector, (4,)) == 0
    assert direction.num_state_elements(matrix, (2, 2)) == 4
    assert settled().num_state_elements(vector, (4,)) == 4


def test_each_view_of_a_matrix_is_orthogonalized_apart() -> None:
    """From t2 on, with the norm it had; the parts stay those of m itself."""
    (trainable,) = trainables_of(w=(3, 8))
    trainable = replace(trainable, num_views=2)
    plain, orthogonal = (
        settled(orthogonalize=orthogonalize).draw(trainable, TensorState(), key=1, step=0, coordinate_shape=(2, 3, 4))
        for orthogonalize in (False, True)
    )
    m, found = (draw.vector.materialize((2, 3, 4), trainable.parameter) for draw in (plain, orthogonal))
    for view, other in zip(m, found, strict=True):
        expected = newton_schulz(view)
        torch.testing.assert_close(other, expected * (view.norm() / expected.norm()), rtol=0, atol=1e-13)
    assert plain.parts == orthogonal.parts


@pytest.mark.parametrize("on_refresh", ["project", "reset"])
def test_a_new_basis_carries_the_memory_or_forgets_it(on_refresh: str) -> None:
    model = Quadratic({"a": (6, 5), "b": (4,)})
    space = LowRank(rank=2, interval=3)
    optimizer = Optimizer(
        model, space=space, direction=settled(on_refresh=on_refresh), estimator=TwoSided(), lr=1e-3, seed=4
    )
    run(optimizer, model, 3)
    before = {t.name: state.tensors["perturbation_momentum"].clone() for t, state in optimizer.tensor_states.items()}
    optimizer.estimate(model)
    for trainable, state in optimizer.tensor_states.items():
        expected = space.transport(trainable, before[trainable.name], seed=4, old_epoch=0, new_epoch=1)
        if on_refresh == "reset":
            expected = torch.zeros_like(expected)
        assert torch.equal(state.tensors["perturbation_momentum"], expected)
        assert state.epoch == 1


def test_the_memory_is_float32_for_half_precision_weights() -> None:
    model = nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    optimizer = Optimizer(model, direction=settled(), estimator=TwoSided(), lr=0.1)
    optimizer.step(lambda: model.weight.float().sum())
    (state,) = optimizer.tensor_states.values()
    assert state.tensors["perturbation_momentum"].dtype == torch.float32
    assert optimizer.state_bytes == 6 * 4


def test_several_directions_are_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"MomentumGuided remembers one direction .* num_directions=1, got 2"):
        Optimizer(Quadratic({"a": (2,)}), direction=settled(), estimator=TwoSided(num_directions=2), lr=0.1)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match=r"beta2_target must be in \(0, 1\], got 0"):
        MomentumGuided(beta2_target=0.0)
    with pytest.raises(UsageError, match=r"Unknown on_refresh 'forget'.* Available: project, reset"):
        MomentumGuided(on_refresh="forget")
