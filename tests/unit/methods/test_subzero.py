"""SubZero: what moves between two redraws of its bases, no state, adapters, and the limits of the settings."""

import math

import pytest
import torch
from torch import Tensor

from foretune import MeZO, SubZero, noise
from foretune.errors import UsageError
from foretune.estimators import OneSided, TwoSided
from foretune.methods import METHODS, make_method
from foretune.spaces import Orthonormal
from foretune.updates import SGD
from model_zoo import causal_closure, opt, with_adapter
from toys import Quadratic, differing_bits, restore, weights_of

SHAPES = {"a": (6, 5), "b": (4,), "c": (3, 2, 4), "d": (1, 1, 4)}


def test_published_defaults() -> None:
    method = make_method("subzero", {})
    assert (method.lr, method.zo_eps, method.num_directions, method.weight_decay) == (1e-7, 1e-3, 1, 0.0)
    parts = method.parts()
    assert parts.space == Orthonormal(rank=8, interval=2000, align=True, reshape="auto")
    assert (parts.estimator, parts.update) == (TwoSided(), SGD())
    one_sided = make_method("subzero_sgd", {"estimator": "one_sided", "num_directions": 4}).parts().estimator
    assert one_sided == OneSided(num_directions=4)
    prompt = METHODS.get("subzero").tuning_defaults["prompt"]
    assert prompt == {"lr": 1e-3, "zo_eps": 1e-2, "rank": 24, "interval": 1000}


def test_the_step_on_a_linear_objective() -> None:
    """W_1 = W_0 - lr g s U z V^T and b_1 = b_0 - lr g z, with the one slope g of the joint direction."""
    model = Quadratic({"w": (3, 4), "b": (2,)})
    c = torch.randn(14, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    before = weights_of(model)
    optimizer = SubZero(model, lr=0.25, zo_eps=0.5, rank=2, seed=9, engine="in_place")
    optimizer.step(lambda: model.flat() @ c)
    b, w = optimizer.trainables
    z = {
        trainable.name: optimizer.parts.direction.draw(
            trainable, None, key=noise.mix(9, 0), step=0, coordinate_shape=()
        ).vector.materialize(optimizer.parts.space.coordinate_shape(trainable), trainable.parameter)
        for trainable in (b, w)
    }
    u, v = optimizer.parts.space.basis(w, seed=9, epoch=0)
    direction = {"b": z["b"], "w": math.sqrt(12) / 2 * u @ z["w"] @ v.T}
    slope = torch.cat([direction["b"], direction["w"].flatten()]) @ c
    assert optimizer.last_record.scalars[0] == pytest.approx(float(slope), abs=1e-12)
    for name, moved in weights_of(model).items():
        torch.testing.assert_close(moved, before[name] - 0.25 * slope * direction[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("align", [True, False])
def test_matrices_move_in_one_small_subspace_until_it_is_redrawn(align: bool) -> None:
    """rank(change within an interval) <= rho, and it is U (..) V^T."""
    model = Quadratic(SHAPES)
    optimizer = SubZero(model, lr=0.003, rank=2, interval=8, align=align, seed=3)
    space = optimizer.parts.space
    for epoch in range(2):
        before = weights_of(model)
        for _ in range(8):
            optimizer.step(model)
        after = weights_of(model)
        for trainable in optimizer.trainables:
            if trainable.matrix_shape is None:
                continue
            change = (after[trainable.name] - before[trainable.name]).view(trainable.matrix_shape)
            assert torch.linalg.matrix_rank(change, rtol=1e-9) == 2
            u, v = space.basis(trainable, seed=3, epoch=epoch)
            outside = change - u @ u.T @ change @ v @ v.T
            assert float(outside.norm()) < 1e-12 * float(change.norm())


def test_z_is_fresh_at_every_step_and_the_bases_only_at_refreshes() -> None:
    """Recovered from the perturbed weights that the closure sees; each is as long as a direction of MeZO on average."""
    model = Quadratic({"a": (6, 5)})
    optimizer = SubZero(model, lr=0.0, zo_eps=1.0, rank=2, interval=3, engine="in_place")
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(model.a.detach().clone())
        return model()

    for _ in range(6):
        optimizer.step(closure)
    directions = [(plus - minus) / 2 for plus, minus in zip(seen[::2], seen[1::2], strict=True)]
    for i, z in enumerate(directions):
        assert torch.linalg.matrix_rank(z, rtol=1e-9) == 2
        for j in range(i):
            assert not torch.allclose(z, directions[j])
            row_spaces = [torch.linalg.pinv(d) @ d for d in (z, directions[j])]
            column_spaces = [d @ torch.linalg.pinv(d) for d in (z, directions[j])]
            for pair in (row_spaces, column_spaces):
                assert torch.allclose(*pair, atol=1e-9) is (i // 3 == j // 3)


def test_on_a_linear_loss_alignment_changes_no_step() -> None:
    """Only how far the loss is looked at: without it lr needs no other value."""
    model = Quadratic(SHAPES)
    start, results = weights_of(model), []
    for align in (True, False):
        restore(model, start)
        optimizer = SubZero(model, lr=0.01, rank=2, align=align)
        matrix = model.a
        c = torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5)
        optimizer.step(lambda matrix=matrix, c=c: (matrix * c).sum())
        results.append(weights_of(model)["a"])
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


def test_there_is_no_state() -> None:
    """The bases can be made again: none of them is saved."""
    model = Quadratic(SHAPES)
    optimizer = SubZero(model, lr=1e-3, rank=2)
    optimizer.step(model)
    assert optimizer.state_bytes == 0
    assert all(not state.tensors for state in optimizer.tensor_states.values())


@pytest.mark.parametrize("options", [{"interval": 1}, {"rank": 40}, {"num_directions": 3, "lr": 0.05}], ids=str)
def test_extreme_settings_learn(options: dict[str, float]) -> None:
    """Bases that are redrawn every step, a rank above every dimension, several directions that share them."""
    model = Quadratic({"a": (3, 2), "b": (2,)})
    first = model().item()
    optimizer = SubZero(model, **{"lr": 0.03, "interval": 5, **options})
    for _ in range(150):
        optimizer.step(model)
    assert model().item() < 0.05 * first


@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_adapters_move_alike_by_both_engines(kind: str) -> None:
    """Reshaped factors, a prefix as its keys and values, a prompt as rows that are looked up."""
    results = []
    for engine in ("in_place", "layerwise"):
        model = with_adapter(opt, kind).double()
        closure = causal_closure(model)
        before = weights_of(model)
        optimizer = SubZero(model, lr=1e-2, zo_eps=1e-2, rank=3, interval=2, seed=5, engine=engine)
        shapes = {optimizer.parts.space.coordinate_shape(trainable) for trainable in optimizer.trainables}
        assert shapes == {"lora": {(3, 3)}, "prefix": {(4, 3, 3)}, "prompt": {(3, 3)}}[kind]
        for _ in range(4):
            optimizer.step(closure)
        after = weights_of(model)
        assert set(differing_bits(before, after)) == {trainable.name for trainable in optimizer.trainables}
        results.append(after)
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], rtol=0, atol=1e-5)  # losses are float32


def test_a_full_rank_step_has_the_length_of_mezos() -> None:
    """At rho = a = b, lr and zo_eps mean what they mean to MeZO: E||step||^2 agrees over seeds."""
    model = Quadratic({"a": (3, 3)})
    start = weights_of(model)
    means = []
    for method in (MeZO, SubZero):
        lengths = []
        for seed in range(400):
            restore(model, start)
            method(model, lr=1e-3, seed=seed, engine="in_place").step(model)
            lengths.append((weights_of(model)["a"] - start["a"]).square().sum())
        samples = torch.stack(lengths)
        means.append((samples.mean(), samples.std() / math.sqrt(400)))
    (mezo, mezo_error), (subzero, subzero_error) = means
    assert abs(mezo - subzero) < 4 * math.hypot(mezo_error, subzero_error)


@pytest.mark.parametrize("option", ["rank", "interval", "num_directions"])
def test_settings_out_of_range_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        make_method("subzero", {option: 0})


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Unknown estimator 'two_side'\. Did you mean: two_sided"):
        make_method("subzero", {"estimator": "two_side"})
