"""Linear layers that run by the factors of their weight's shift."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine_runs import bits
from foretune import Optimizer
from foretune.directions import LowRankProduct
from foretune.engine.base import Perturbation
from foretune.engine.factored import can_factor, factored_linear, factors_pay, is_plain_linear
from foretune.engine.layerwise import NUM_AHEAD, Layerwise
from foretune.estimators import TwoSided
from foretune.parameters import collect_trainables
from foretune.spaces import LowRank, Orthonormal
from foretune.types import Trainable
from foretune.updates import Conservative

M, N, RANK = 24, 40, 3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------- the product


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(6, N), (2, 3, N)])
def test_a_layer_by_factors_is_the_layer_with_a_moved_weight(shape, has_bias) -> None:
    x, weight, bias = draw(*shape), draw(M, N, seed=1), draw(M, seed=2) if has_bias else None
    left, right = draw(M, RANK, seed=3), draw(N, RANK, seed=4)
    found = factored_linear(x, weight, [bias], [(left, right)])
    torch.testing.assert_close(found, nn.functional.linear(x, weight + left @ right.T, bias), rtol=1e-12, atol=1e-12)


def test_each_share_of_the_rows_has_its_own() -> None:
    x, weight = draw(6, N), draw(M, N, seed=1)
    biases = [draw(M, seed=2), None, draw(M, seed=3)]
    factors = [(draw(M, RANK, seed=4), draw(N, RANK, seed=5)), (draw(M, 1, seed=6), draw(N, 1, seed=7)), None]
    found = factored_linear(x, weight, biases, factors)
    for share, x_i, bias, pair in zip(found.chunk(3), x.chunk(3), biases, factors, strict=True):
        moved = weight if pair is None else weight + pair[0] @ pair[1].T
        torch.testing.assert_close(share, nn.functional.linear(x_i, moved, bias), rtol=1e-12, atol=1e-12)


def test_in_half_precision_the_shift_is_not_rounded_to_the_weight() -> None:
    """A thousandth of the distance between bfloat16 numbers around 1: a copy of the weight loses it."""
    x, weight = torch.ones(1, 2, dtype=torch.bfloat16), torch.tensor([[1.0, -1.0]], dtype=torch.bfloat16)
    left, right = torch.full((1, 1), 2.0**-18), torch.tensor([[1.0], [0.0]])
    assert factored_linear(x, weight, [None], [(left, right)]).item() == 2.0**-18
    assert nn.functional.linear(x, weight + (left @ right.T).bfloat16()).item() == 0.0


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers count, too."""
    monkeypatch.setattr("foretune.engine.factored.LEAST_NUMEL", 0)


@pytest.mark.parametrize(("num_rows", "wanted"), [(15, True), (16, False)])
def test_when_factors_pay(num_rows, wanted) -> None:
    """24 x 40 numbers, and 64 a row."""
    assert factors_pay(draw(num_rows, N), torch.empty(M, N)) is wanted
    assert factors_pay(draw(3, num_rows // 3, N), torch.empty(M, N)) is True


def test_which_layers_and_inputs_serve() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    class Renamed(nn.Linear):
        """Adds nothing to what it does."""

    modules = [nn.Linear(2, 2), Renamed(2, 2), Own(2, 2), nn.LayerNorm(2)]
    assert [is_plain_linear(module) for module in modules] == [True, True, False, False]
    x, weight = torch.ones(2, 2), torch.ones(2, 2)
    assert [can_factor(value, weight) for value in (x, x.half(), None)] == [True, False, False]
    with torch.autocast("cpu"):
        assert not can_factor(x, weight)


# ---------------------------------------------------------------- in the layerwise engine


class Layers(nn.Module):
    """An embedding, linear layers (one of them called twice, one never), and an embedding as a head."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.words = nn.Embedding(30, N)
        self.up, self.down = nn.Linear(N, M), nn.Linear(M, N, bias=False)
        self.layers = nn.ModuleList(nn.Linear(N, N) for _ in range(NUM_AHEAD + 3))
        self.unused = nn.Linear(N, N)
        self.head = nn.Linear(N, 30, bias=False)
        self.head.weight = self.words.weight
        self.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for _ in range(2):
            x = x + self.down(self.up(x).tanh())
        for layer in reversed(self.layers):
            x = x + layer(x).tanh()
        return self.head(x)


def make(dtype: torch.dtype = torch.float32) -> Layers:
    torch.manual_seed(0)
    return Layers(dtype)


def closure_of(model: Layers, num_rows: int = 2) -> Callable[[], Tensor]:
    ids = torch.arange(3 * num_rows).view(num_rows, 3) % 30
    return lambda: model(ids).double().square().mean()


def losses(model: Layers, engine: str, num_rows: int = 2, **parts: object) -> list[float]:
    """The losses of the first step."""
    optimizer = Optimizer(model, lr=0.0, estimator=TwoSided(zo_eps=1e-2, num_directions=2), engine=engine, **parts)
    seen: list[float] = []
    closure = closure_of(model, num_rows)

    def noted() -> Tensor:
        loss = closure()
        seen.append(loss.item())
        return loss

    optimizer.estimate(noted)
    return seen[-4:]


@pytest.mark.parametrize(
    "parts", [{"space": LowRank()}, {"space": Orthonormal(rank=4)}, {"direction": LowRankProduct()}], ids=repr
)
@pytest.mark.parametrize("num_rows", [2, 20])
def test_losses_are_those_of_weights_that_were_written(parts, num_rows, any_size) -> None:
    model = make()
    before = bits(model)
    found, wanted = (losses(model, engine, num_rows, **parts) for engine in ("layerwise", "in_place"))
    assert found == pytest.approx(wanted, rel=1e-5)
    assert len(set(wanted)) == 4
    assert min(abs(a - b) for a, b in zip(wanted[::2], wanted[1::2], strict=True)) > 1e-3 * wanted[0]
    assert bits(model) == before


class Thin(Perturbation):
    """Moves everything, matrices along given factors, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def moves(self, trainable: Trainable) -> bool:
        return True

    def prepare(self, trainables) -> None:
        self.asked += [("prepare", trainable.name) for trainable in trainables]

    def factors(self, trainable: Trainable) -> tuple[Tensor, Tensor]:
        self.asked.append(("factors", trainable.name))
        return torch.ones(trainable.shape[0], 1), torch.full((trainable.shape[1], 1), 1e-3)

    def write(self, trainable: Trainable, *, out: Tensor, base: Tensor, rows: Tensor | None = None) -> None:
        self.asked.append(("write", trainable.name))
        torch.add(base, 1e-3, out=out)

    def names(self, what: str) -> list[str]:
        return [name for kind, name in self.asked if kind == what and name.endswith("weight")]


def asked(model: Layers, num_rows: int) -> Thin:
    engine, thin = Layerwise(model, collect_trainables(model)), Thin()
    with engine.session():
        engine.loss(closure_of(model, num_rows), thin)
    return thin


def test_no_copy_is_made_of_a_layer_with_few_rows(any_size) -> None:
    thin = asked(make(), 2)
    linears = ["up.weight", "down.weight"] * 2 + [f"layers.{i}.weight" for i in reversed(range(NUM_AHEAD + 3))]
    assert thin.names("factors") == [*linears, "head.weight"]
    assert thin.names("write") == ["head.weight"]  # looked up


def test_copies_are_made_of_small_layers() -> None:
    thin = asked(make(), 2)
    assert thin.names("factors") == []
    assert len(thin.names("write")) == NUM_AHEAD + 3 + 2 * 2 + 2


def test_copies_are_made_where_rows_outweigh_them(any_size) -> None:
    thin = asked(make(), 20)  # 60 rows of N + N numbers: more than N x N
    assert thin.names("factors") == []
    assert len(thin.names("write")) == NUM_AHEAD + 3 + 2 * 2 + 2


def test_several_are_prepared_together_and_each_once(any_size) -> None:
    model = make()
    thin, engine = asked(model, 2), Layerwise(model, collect_trainables(model))
    names = [name for kind, name in thin.asked if kind == "prepare"]
    assert sorted(names) == sorted(t.name for t in engine.trainables if t not in engine.held)
    first = thin.asked[: thin.asked.index(("write", "head.weight"))]
    assert [kind for kind, _ in first if kind != "write"] == ["prepare"] * NUM_AHEAD  # what is held is written before


def test_a_layer_that_is_told_its_input_by_name_reads_a_copy(any_size) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(N, N)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(input=x)

    model, thin = Named(), Thin()
    engine = Layerwise(model, collect_trainables(model))
    with engine.session():
        engine.loss(lambda: model(torch.ones(1, N)).sum(), thin)
    assert (thin.names("factors"), thin.names("write")) == ([], ["linear.weight"])


def test_a_loss_that_an_update_would_reach_is_measured_on_rounded_copies(any_size) -> None:
    """The conservative rule asks where a step leads: in half precision, what the update will have rounded."""
    model = make(torch.bfloat16)
    model.requires_grad_(False)
    model.layers[0].weight.requires_grad_(True)
    parts = {"space": LowRank(), "estimator": TwoSided(zo_eps=1e-2), "update": Conservative()}
    optimizer = Optimizer(model, lr=1e-3, engine="layerwise", **parts)
    closure, seen, num_moves = closure_of(model), [], 0

    def noted() -> Tensor:
        loss = closure()
        seen.append(loss.item())
        return loss

    for _ in range(10):
        optimizer.step(noted)
        num_moves += optimizer.last_record.scalars[-1] != 0.0
        assert closure().item() in seen
    assert num_moves > 3
