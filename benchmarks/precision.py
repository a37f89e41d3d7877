"""What half-precision weights do to a zeroth-order step: rounding to nearest, add-and-subtract, and our way.

    python benchmarks/precision.py [--quick]

Plain means what `param.data = param.data + ...` does: every write is rounded to nearest. All figures are for
bfloat16 tensors as in an OPT: norm weights of 1.0, and linear weights of standard deviation 0.02.

1. Update: cosine between an update of 1e-5 z and the change that reaches the weights. Stochastic rounding is
   right on average, so the change is averaged over independent roundings; the nearest never gets nearer.
2. Slope: the length, along the intended perturbation zo_eps z, of what the perturbation really is. It
   multiplies every projected gradient.
3. Drift at learning rate 0: distance from the first weights, relative to their length.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence

import torch
from bits import copy_weights, count_changed_bits
from torch import Tensor, nn

from foretune.estimators import TwoSided
from foretune.noise import Noise, Purpose, add, fill, mix, stream_id
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.published_way import PublishedMeZO

NORM_ELEMENTS = 24 * 768 + 2 * 768
"""Norm weights of an OPT-125M."""
UPDATE_SCALE = 1e-5
NUM_DRAWS = (1, 10, 100, 1000, 30_000)
"""Roundings whose mean is compared. Next to a norm weight of 1.0 the update is 1/400 to 1/800 of the spacing."""
ZO_EPS = 1e-3


class Weights(nn.Module):
    """One tensor of norm weights and one of a linear layer, in bfloat16; its loss is their sum.

    Args:
        side: Rows and columns of the linear weight.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.norm = nn.Parameter(torch.ones(NORM_ELEMENTS, dtype=torch.bfloat16))
        self.linear = nn.Parameter((0.02 * torch.randn(side, side, generator=generator)).bfloat16())

    def forward(self) -> Tensor:
        """A loss that reads every weight."""
        return self.norm.float().sum() + self.linear.float().sum()


def update_cosines(weight: Tensor, num_draws: int) -> tuple[float, float]:
    """Return the cosines of the intended update with ours and with the plain one.

    Ours is the mean over `num_draws` independent roundings.
    """
    stream = stream_id("weight")
    z = fill(torch.empty(weight.shape), Noise(mix(0, 0), stream, Purpose.DIRECTION))
    change = torch.zeros(weight.shape)
    for draw in range(num_draws):
        written = weight.clone()
        add(
            written,
            weight,
            noise=[(UPDATE_SCALE, Noise(mix(0, 0), stream, Purpose.DIRECTION))],
            rounding=Noise(mix(0, draw), stream, Purpose.UPDATE_ROUNDING),
        )
        change += written.float() - weight.float()
    plain = (weight.float() + UPDATE_SCALE * z).bfloat16().float() - weight.float()
    return _cosine(change, z), _cosine(plain, z)


def slopes(model: Weights, name: str, num_directions: int) -> tuple[float, float]:
    """Return how long a perturbation is along the intended one, with our engine and with plain rounding.

    <(W+ - W-) / 2, zo_eps z> / <zo_eps z, zo_eps z>, over all directions; 1 is right.
    """
    parameter = dict(model.named_parameters())[name]
    stream = next(trainable.stream for trainable in collect_trainables(model) if trainable.name == name)
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(parameter.detach().float().clone())
        return torch.zeros(())

    # in_place: the closure reads the weights itself
    optimizer = Optimizer(model, estimator=TwoSided(zo_eps=ZO_EPS), lr=0.0, engine="in_place")
    weight = parameter.detach().clone()
    ours = plain = norm = 0.0
    for step in range(num_directions):
        seen.clear()
        optimizer.step(closure)
        intended = ZO_EPS * fill(torch.empty(weight.shape), Noise(mix(0, step), stream, Purpose.DIRECTION))
        nearest = [(weight.float() + sign * intended).bfloat16().float() for sign in (1, -1)]
        ours += _inner((seen[0] - seen[1]) / 2, intended)
        plain += _inner((nearest[0] - nearest[1]) / 2, intended)
        norm += _inner(intended, intended)
    return ours / norm, plain / norm


def drifts(side: int, num_steps: int) -> tuple[dict[str, float], int]:
    """At lr 0: return each tensor's relative drift by add and subtract, and the bits that ours changes."""
    walked, ours = Weights(side), Weights(side)
    before = copy_weights(walked)
    published = PublishedMeZO(walked, lr=0.0, zo_eps=ZO_EPS)
    optimizer = Optimizer(ours, estimator=TwoSided(zo_eps=ZO_EPS), lr=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(num_steps):
            published.step(walked)
            optimizer.step(ours)
    after = copy_weights(walked)
    drift = {
        name: float((after[name].float() - before[name].float()).norm() / before[name].float().norm())
        for name in before
    }
    return drift, count_changed_bits(before, copy_weights(ours))


def _inner(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.double().flatten(), b.double().flatten()))


def _cosine(a: Tensor, b: Tensor) -> float:
    return _inner(a, b) / max(_inner(a, a) * _inner(b, b), 1e-300) ** 0.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the three tables."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: small tensors, few draws")
    quick = parser.parse_args(arguments).quick
    side, num_directions, num_steps = (64, 4, 5) if quick else (768, 50, 100)
    model = Weights(side)

    print(f"1. cosine of the intended update ({UPDATE_SCALE:g} z) and the mean change of the weights, bfloat16")
    print(f"{'':<10}{'roundings':>10}{'ours':>10}{'plain':>10}")
    for name, parameter in model.named_parameters():
        for num_draws in NUM_DRAWS[:2] if quick else NUM_DRAWS:
            ours, plain = update_cosines(parameter.detach(), num_draws)
            print(f"{name:<10}{num_draws:>10}{ours:>10.3f}{plain:>10.3f}")

    print(f"\n2. length of the perturbation along the intended one (zo_eps {ZO_EPS:g}); 1 is right")
    print(f"{'':<10}{'directions':>10}{'ours':>10}{'plain':>10}")
    for name, _ in model.named_parameters():
        ours, plain = slopes(model, name, num_directions)
        print(f"{name:<10}{num_directions:>10}{ours:>10.3f}{plain:>10.3f}")

    drift, changed_bits = drifts(side, num_steps)
    print(f"\n3. drift in {num_steps} steps at learning rate 0")
    for name, value in drift.items():
        print(f"add and subtract, {name:<8}{value:>10.2%}")
    print(f"ours, changed bits{changed_bits:>16}")


if __name__ == "__main__":
    main()
