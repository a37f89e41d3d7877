"""ZO-Muon in both spaces: what the papers' statements accept, the settings, and the promises in the subspace."""

import copy

import pytest
import torch
from torch import Tensor

from foretune import ZOMuon, noise
from foretune.errors import UsageError
from foretune.estimators import OneSided, TwoSided
from foretune.methods import METHODS, AbstractMethod, make_method
from foretune.methods.base import Toy
from foretune.schedules import Whole
from foretune.spaces import Identity, OneSidedOrthonormal
from foretune.types import TensorState, Trainable
from foretune.updates import SGD, MSign, Muon
from promised import build, run, state_of
from promises.conftest import one_thread, toys  # noqa: F401
from promises.test_promised_estimates import (  # noqa: F401
    test_both_engines_give_the_same_records,
    test_it_steps_along_what_it_measured,
    test_weights_are_restored_after_an_estimate,
)
from promises.test_promised_manners import (  # noqa: F401
    test_a_learning_rate_of_zero_changes_no_bit,
    test_non_finite_losses_move_nothing_and_end_the_run,
    test_state_is_as_declared,
    test_the_model_keeps_its_form,
    test_the_schedule_reaches_the_update,
)
from promises.test_promised_runs import (  # noqa: F401
    test_it_solves_the_toy_problem_in_its_stated_steps,
    test_registration_order_is_irrelevant,
    test_replay_gives_the_same_bits,
    test_the_seed_decides_the_bits,
)
from toys import Net, Quadratic, assert_mean, differing_bits, restore, weights_of

SHAPES = {"a": (6, 5), "b": (4,), "c": (3, 2, 4), "d": (2, 7)}
SUBSPACE = {"muon_space": "subspace", "rank": 2, "interval": 3}


@pytest.fixture(params=["muon", "muon_svd", "sgd"])
def recipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[AbstractMethod]:
    """The method with the subspace in its toy settings: the promises imported above are tested for it as well."""
    method = METHODS.get("zo_muon")
    options = {**SUBSPACE, "lr": 0.03, "lr_1d": 0.02, "variant": request.param}
    monkeypatch.setattr(method, "toy", Toy(options=options, num_steps=300))
    return method


def z_of(trainable: Trainable, optimizer: ZOMuon, step: int, query: int) -> Tensor:
    """The coordinates of a direction, drawn from its address."""
    shape = optimizer.parts.space.coordinate_shape(trainable)
    key = noise.mix(optimizer.seed, step, query)
    draw = optimizer.parts.direction.draw(trainable, TensorState(), key=key, step=step, coordinate_shape=shape)
    return draw.vector.materialize(shape, trainable.parameter)


def spectral_norm(change: Tensor) -> float:
    return float(torch.linalg.matrix_norm(change.reshape(change.shape[0], -1), 2))


# ---------------------------------------------------------------- settings


def test_published_defaults() -> None:
    full = make_method("zo_muon", {}).parts()
    assert full.space == Identity()
    assert full.estimator == TwoSided(zo_eps=1e-3, num_directions=1)
    assert full.update == Muon(beta=0.95)
    assert full.schedule == Whole()
    subspace = make_method("zo_muon", {"muon_space": "subspace", "lr": 1e-2}).parts()
    assert subspace.space == OneSidedOrthonormal(rank=64, interval=100)
    assert subspace.estimator == OneSided(zo_eps=1e-3, num_directions=4)
    assert subspace.update == MSign()
    assert subspace.schedule.vector_lr_scale == pytest.approx(1e-5)


def test_variants() -> None:
    parts = {
        name: make_method("zo_muon", {"muon_space": "subspace", "variant": name, "weight_decay": 0.1}).parts()
        for name in ("muon", "muon_svd", "sgd")
    }
    assert parts["muon"].update == MSign(weight_decay=0.1)
    assert parts["muon_svd"].update == MSign(exact=True, weight_decay=0.1)
    assert parts["sgd"].update == SGD(weight_decay=0.1)
    assert parts["muon_svd"].estimator == OneSided(num_directions=4)
    assert parts["sgd"].estimator == TwoSided(num_directions=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"muon_space": "ful"}, r"Unknown muon_space 'ful'\. Did you mean: full"),
        ({"muon_space": "subspace", "variant": "muon_sv"}, r"Unknown variant 'muon_sv'\. Did you mean: muon_svd"),
        ({"rank": 4}, "rank has no effect with muon_space=full, got 4"),
        ({"interval": 4}, "interval has no effect with muon_space=full, got 4"),
        ({"variant": "sgd"}, "variant has no effect with muon_space=full, got sgd"),
        ({"muon_space": "subspace", "beta": 0.9}, r"beta has no effect with muon_space=subspace, got 0\.9"),
        ({"lr_1d": 0.0}, r"lr_1d must be positive and finite, got 0\.0"),
        ({"muon_space": "subspace", "rank": 0}, "rank must be at least 1, got 0"),
        ({"num_directions": 0}, "num_directions must be at least 1, got 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_method("zo_muon", options)


@pytest.mark.parametrize("space", ["full", "subspace"])
def test_a_learning_rate_of_its_own_for_vectors(space: str) -> None:
    parts = make_method("zo_muon", {"muon_space": space, "lr": 1e-2, "lr_1d": 3e-4}).parts()
    assert parts.schedule.vector_lr_scale == pytest.approx(0.03)
    assert make_method("zo_muon", {"muon_space": space, "lr": 0.0, "lr_1d": 3e-4}).parts().schedule == Whole()
    with pytest.raises(UsageError, match="lr must be 0 or more and finite, got inf"):
        ZOMuon(Net(), muon_space=space, lr=float("inf"), lr_1d=3e-4)


# ---------------------------------------------------------------- full (methods.md 5.5)


def test_full_spectral_norm_of_each_step() -> None:
    """||Delta W||_2 <= 1.21 lr sqrt(max(1, rows / columns)) without decay."""
    model = Quadratic(SHAPES)
    optimizer = ZOMuon(model, lr=0.01)
    for _ in range(6):
        before = weights_of(model)
        optimizer.step(model)
        for name in ("a", "c", "d"):
            change = model.get_parameter(name).detach() - before[name]
            rows, columns = change.shape[0], change[0].numel()
            assert 0.005 < spectral_norm(change) <= 1.21 * 0.01 * max(1.0, rows / columns) ** 0.5


def test_full_first_step_depends_on_the_sign_of_the_slope_alone() -> None:
    model = Quadratic(SHAPES)
    start, changes = weights_of(model), []
    for factor in (1.0, 30.0, -30.0):
        restore(model, start)
        ZOMuon(model, lr=0.01).step(lambda factor=factor: factor * model())
        changes.append({name: weight - start[name] for name, weight in weights_of(model).items()})
    for name in ("a", "c", "d"):
        torch.testing.assert_close(changes[0][name], changes[1][name], rtol=0, atol=1e-8)
        torch.testing.assert_close(changes[1][name], -changes[2][name], rtol=0, atol=1e-8)


def test_full_vectors_follow_adam_on_the_estimate() -> None:
    model = Quadratic(SHAPES)
    optimizer = ZOMuon(model, lr=0.01, seed=4)
    parameter = torch.nn.Parameter(weights_of(model)["b"])
    oracle = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.0)
    (trainable,) = (t for t in optimizer.trainables if t.name == "b")
    for step in range(6):
        (record,) = run(optimizer, model, 1)
        parameter.grad = record.scalars[0] * z_of(trainable, optimizer, step, 0)
        oracle.step()
        torch.testing.assert_close(model.b.detach(), parameter.detach(), rtol=0, atol=1e-12)


def test_full_state_is_the_average_and_two_moments_of_vectors() -> None:
    assert ZOMuon(Quadratic(SHAPES), lr=0.01).state_bytes == 8 * (30 + 24 + 14 + 2 * 4)


# ---------------------------------------------------------------- subspace (methods.md 5.4)


@pytest.mark.parametrize(("variant", "bound"), [("muon", 1.21), ("muon_svd", 1.0 + 1e-9)])
def test_subspace_steps_have_bounded_norm_and_lie_in_p(variant: str, bound: float) -> None:
    """||Delta W||_2 <= 1.21 lr without decay, and the columns of Delta W are in span(P), refreshes included."""
    model = Quadratic(SHAPES)
    optimizer = ZOMuon(model, lr=0.01, lr_1d=1e-3, seed=3, variant=variant, **SUBSPACE)
    for step in range(7):
        before = weights_of(model)
        optimizer.step(model)
        for trainable in optimizer.trainables:
            if trainable.matrix_shape is None:
                continue
            change = (trainable.parameter.detach() - before[trainable.name]).view(trainable.matrix_shape)
            p = optimizer.parts.space.basis(trainable, seed=3, epoch=step // 3)
            assert 0.005 < spectral_norm(change) <= bound * 0.01
            assert torch.linalg.matrix_rank(change, rtol=1e-9) == 2
            torch.testing.assert_close(p @ p.T @ change, change, rtol=0, atol=1e-14)


@pytest.mark.parametrize("variant", ["muon", "muon_svd"])
def test_subspace_steps_of_matrices_do_not_depend_on_the_scale_of_the_loss(variant: str) -> None:
    """f -> c f for c > 0; vectors, which descend plainly, move c times as far."""
    model = Quadratic(SHAPES)
    start, changes = weights_of(model), []
    for factor in (1.0, 100.0):
        restore(model, start)
        optimizer = ZOMuon(model, lr=0.01, lr_1d=1e-4, variant=variant, **SUBSPACE)
        optimizer.step(lambda factor=factor: factor * model())
        changes.append({name: weight - start[name] for name, weight in weights_of(model).items()})
    for name in ("a", "c", "d"):
        torch.testing.assert_close(changes[0][name], changes[1][name], rtol=0, atol=1e-8)
    torch.testing.assert_close(100 * changes[0]["b"], changes[1]["b"], rtol=0, atol=1e-9)


def test_one_p_for_all_queries_and_the_update() -> None:
    """Recovered from the weights that the closure sees, on every step, so also where P is redrawn."""
    model = Quadratic({"a": (6, 5)})
    optimizer = ZOMuon(model, lr=0.01, zo_eps=1.0, engine="in_place", num_directions=3, **SUBSPACE)
    projectors = []
    for _ in range(7):
        seen: list[Tensor] = []

        def closure(seen: list[Tensor] = seen) -> Tensor:
            seen.append(model.a.detach().clone())
            return model()

        optimizer.step(closure)
        clean, *shifted = seen
        moves = [weight - clean for weight in (*shifted, model.a.detach())]
        projectors.append([move @ torch.linalg.pinv(move, rtol=1e-9) for move in moves])
        for projector in projectors[-1]:
            torch.testing.assert_close(projector, projectors[-1][0], rtol=0, atol=1e-9)
    for i in range(7):
        for j in range(i):
            assert torch.allclose(projectors[i][0], projectors[j][0], atol=1e-9) is (i // 3 == j // 3)


def test_subspace_step_is_the_published_formula() -> None:
    """P msign(mean of g_k Psi_k) with decay for a matrix, the mean of g_k z_k at lr_1d for a vector."""
    model = Quadratic(SHAPES)
    optimizer = ZOMuon(
        model, lr=0.01, lr_1d=3e-4, weight_decay=0.2, num_directions=4, variant="muon_svd", seed=2, **SUBSPACE
    )
    for step in range(5):
        before = weights_of(model)
        (record,) = run(optimizer, model, 1)
        for trainable in optimizer.trainables:
            mean = sum(g * z_of(trainable, optimizer, step, k) / 4 for k, g in enumerate(record.scalars))
            weight = before[trainable.name]
            if trainable.matrix_shape is None:
                expected = weight - 3e-4 * mean
            else:
                p = optimizer.parts.space.basis(trainable, seed=2, epoch=step // 3)
                u, _, vh = torch.linalg.svd(mean, full_matrices=False)
                expected = weight - 0.01 * ((p @ u @ vh).view(weight.shape) + 0.2 * weight)
            torch.testing.assert_close(trainable.parameter.detach(), expected, rtol=0, atol=1e-12)


def test_a_single_query_leaves_only_the_sign_of_its_slope() -> None:
    model = Quadratic({"a": (6, 5)})
    optimizer = ZOMuon(model, lr=0.01, num_directions=1, variant="muon_svd", **SUBSPACE)
    before = weights_of(model)["a"]
    (record,) = run(optimizer, model, 1)
    (trainable,) = optimizer.trainables
    u, _, vh = torch.linalg.svd(z_of(trainable, optimizer, 0, 0), full_matrices=False)
    p = optimizer.parts.space.basis(trainable, seed=0, epoch=0)
    sign = 1.0 if record.scalars[0] > 0 else -1.0
    torch.testing.assert_close(model.a.detach(), before - 0.01 * sign * p @ u @ vh, rtol=0, atol=1e-12)


def test_mean_estimate_given_p_is_the_gradient_projected() -> None:
    """E[P G^ | P] = P P^T G on a quadratic, of one-sided queries, measured by the optimizer itself."""
    model = Quadratic({"a": (4, 3)})
    optimizer = ZOMuon(model, lr=0.0, muon_space="subspace", rank=2, interval=1000, zo_eps=0.1, num_directions=4)
    (trainable,) = optimizer.trainables
    means = [
        sum(g * z_of(trainable, optimizer, step, k) / 4 for k, g in enumerate(record.scalars))
        for step, record in enumerate(run(optimizer, model, 400))
    ]
    p = optimizer.parts.space.basis(trainable, seed=0, epoch=0)
    assert_mean(p @ torch.stack(means), p @ p.T @ model.gradient().view(4, 3))


def test_a_rank_above_every_dimension_learns() -> None:
    """P is then square and orthogonal: the step is that of the full space."""
    model = Quadratic({"a": (3, 2), "b": (2,)})
    first = model().item()
    optimizer = ZOMuon(model, muon_space="subspace", rank=40, interval=1, lr=0.02, lr_1d=0.02)
    run(optimizer, model, 300)
    assert model().item() < 0.1 * first


def test_the_subspace_keeps_no_state() -> None:
    assert ZOMuon(Net(), **SUBSPACE).state_bytes == 0


def test_a_resumed_run_is_the_uninterrupted_one(recipe: type[AbstractMethod]) -> None:
    """Bit for bit, cut after any step; a fresh optimizer has to make P again in the middle of an epoch."""
    model = Net()
    optimizer = build(recipe, model)
    checkpoints = []
    for _ in range(8):
        checkpoints.append(copy.deepcopy((model.state_dict(), optimizer.state_dict())))
        optimizer.step(model)
    for num_done, (weights, state) in enumerate(checkpoints):
        resumed_model = Net()
        resumed = build(recipe, resumed_model)
        resumed_model.load_state_dict(weights)
        resumed.load_state_dict(state)
        run(resumed, resumed_model, 8 - num_done)
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []
