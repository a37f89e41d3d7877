"""Small models and objectives with known gradients and optima, and comparisons of weights bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from foretune.parameters import collect_trainables
from foretune.types import Trainable

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


class Quadratic(nn.Module):
    """f(theta) = 1/2 (theta - target)^T A (theta - target), A positive definite, over all tensors jointly.

    Args:
        shapes: Name and shape of each tensor, in registration order; dots part the modules it sits in.
        seed: Of A, target and start, which do not depend on the registration order.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = sum(map(math.prod, shapes.values()))
        root = torch.randn(size, size, generator=generator, dtype=torch.float64) / math.sqrt(size)
        self.register_buffer("hessian", root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64))
        self.register_buffer("target", torch.randn(size, generator=generator, dtype=torch.float64))
        for name in sorted(shapes):
            start = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
            _register(self, name, nn.Parameter(start))

    def flat(self) -> Tensor:
        """theta, shape (d,), tensors in the order of their names."""
        return torch.cat([parameter.reshape(-1) for _, parameter in sorted(self.named_parameters())])

    def forward(self) -> Tensor:
        """f(theta)."""
        difference = self.flat() - self.target
        return 0.5 * difference @ self.hessian @ difference

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """A (theta - target), shape (d,)."""
        return self.hessian @ (self.flat() - self.target)


def _register(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Give a model a parameter of this dotted name, in modules that only hold others."""
    *path, own_name = name.split(".")
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    model.register_parameter(own_name, parameter)


class LoRALinear(nn.Module):
    """A frozen linear layer and a trainable low-rank update, ``W x + b + B A x``, named as in peft."""

    def __init__(self, in_features: int, out_features: int, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = nn.Linear(in_features, out_features).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        """The output."""
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Regression(nn.Module):
    """Mean squared error of a linear layer with a bias on data it can fit exactly: 10 numbers, optimum 0.

    Args:
        linear: Class of the layer. LoRALinear has 12 trainable numbers, and its bias is right from the start.
    """

    def __init__(self, linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layer = linear(4, 2)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if isinstance(self.layer, LoRALinear):
                self.layer.base_layer.bias.fill_(0.5)
        self.register_buffer("inputs", torch.randn(32, 4, generator=generator))
        solution = torch.randn(2, 4, generator=generator)
        self.register_buffer("labels", self.inputs @ solution.T + 0.5)

    def forward(self) -> Tensor:
        """The loss."""
        return (self.layer(self.inputs) - self.labels).square().mean()


class Net(nn.Module):
    """A network with matrices, biases, a norm and a frozen layer; its loss on fixed data.

    Args:
        order: Names of the layers in the order in which they are registered.
        linear: Class of the first layer and of the head. With LoRALinear only their adapters are trainable.
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float32,
        order: Sequence[str] = ("first", "norm", "frozen", "head"),
        linear: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        layers = {
            "first": linear(4, 3),
            "norm": nn.LayerNorm(3).requires_grad_(linear is nn.Linear),
            "frozen": nn.Linear(3, 3).requires_grad_(False),
            "head": linear(3, 2),
        }
        with torch.no_grad():
            for name in ("first", "frozen", "head"):
                for parameter in layers[name].parameters():
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        for name in order:
            self.add_module(name, layers[name])
        self.register_buffer("inputs", torch.randn(8, 4, generator=generator))
        self.register_buffer("labels", torch.randn(8, 2, generator=generator))
        self.to(dtype)

    def forward(self) -> Tensor:
        """The loss, float32 or better."""
        outputs = self.head(torch.tanh(self.frozen(self.norm(self.first(self.inputs)))))
        precise = torch.promote_types(outputs.dtype, torch.float32)
        return (outputs.to(precise) - self.labels.to(precise)).square().mean()


class Deep(nn.Module):
    """Many equal layers, and a loss on one row: activations are small.

    Args:
        linear: Class of the layers. With LoRALinear the trainable tensors are its factors, here of full rank.
    """

    width = 48
    num_layers = 24
    layer_bytes = 4 * width * width

    def __init__(self, linear: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(linear(self.width, self.width) for _ in range(self.num_layers))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / self.width**0.5)
        self.register_buffer("inputs", torch.randn(1, self.width, generator=generator))

    def forward(self) -> Tensor:
        """The loss."""
        x = self.inputs
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.square().mean()


@dataclass(frozen=True)
class Toys:
    """Toy models for methods of one tuning scheme.

    Attributes:
        regression: Makes a `Regression`.
        net: Makes a `Net`, of a dtype and an order of its layers.
        deep: Makes a `Deep`.
        named: Gives the tensors of a `Quadratic` names as the scheme has them, in the same order.
    """

    regression: Callable[[], Regression]
    net: Callable[..., Net]
    deep: Callable[[], Deep]
    named: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, tuple[int, ...]]]


def _named_as_adapters(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Give the first tensor the name of a factor B, the second one that of a factor A, and so on."""
    sides = ["BA"[index % 2] for index in range(len(shapes))]
    return {f"{name}.lora_{side}.weight": shape for side, (name, shape) in zip(sides, shapes.items(), strict=True)}


TOYS = {
    "full": Toys(Regression, Net, Deep, lambda shapes: shapes),
    "lora": Toys(
        partial(Regression, linear=LoRALinear),
        partial(Net, linear=LoRALinear),
        partial(Deep, linear=partial(LoRALinear, rank=Deep.width)),
        _named_as_adapters,
    ),
}
"""Toy models by tuning scheme."""


class CountedCalls:
    """A closure that counts how often it is called."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.count = 0

    def __call__(self) -> Tensor:
        self.count += 1
        return self.model()


def trainables_of(**shapes: tuple[int, ...]) -> tuple[Trainable, ...]:
    """Trainable float64 zeros of these shapes, ordered by name."""
    parameters = {name: nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for name, shape in shapes.items()}
    return collect_trainables(nn.ParameterDict(parameters))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of a model's parameters, frozen ones included."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def restore(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put copies from `weights_of` back."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def differing_bits(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ in a bit (-0.0 and 0.0 differ), in shape or in dtype."""
    assert a.keys() == b.keys()
    return [name for name in a if not _same_bits(a[name], b[name])]


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    integer = _INTEGERS[a.element_size()]
    return torch.equal(a.detach().contiguous().view(integer), b.detach().contiguous().view(integer))


def assert_mean(samples: Tensor, truth: Tensor | float, *, errors: float = 5.0) -> None:
    """Check that each mean over samples, shape (N, ...), is within `errors` standard errors of the truth."""
    standard_error = samples.std(dim=0) / math.sqrt(samples.shape[0])
    distance = (samples.mean(dim=0) - truth).abs()
    worst = (distance / standard_error.clamp_min(1e-300)).max()
    assert (distance <= errors * standard_error + 1e-12).all(), f"off by {float(worst):.1f} standard errors"
