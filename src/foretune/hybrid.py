"""Hybrid training: a zeroth-order method on the shallow part of a model, a gradient on the deep part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foretune.depth import find_depths
from foretune.engine import eval_mode, hold_interrupts, read_loss
from foretune.errors import IncompatibleError, NonFiniteLossError, UsageError
from foretune.named_state import load_named_state, named_state, state_bytes
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.types import LossClosure, Trainable


class Hybrid(torch.optim.Optimizer):
    """A zeroth-order method below a layer and an optimizer of torch from it on, both from the same weights.

        opt = Hybrid(
            model,
            hybrid_zo_layers=12,
            zo=lambda model: foretune.MeZO(model, lr=1e-6),
            fo=lambda tensors: torch.optim.AdamW([tensor.parameter for tensor in tensors], lr=1e-5),
        )
        loss = opt.step(lambda: model(**batch).loss)

        shallow group S: what is read before the layers (embeddings, a tied head), and layers 0 .. K-1
        deep group D:    layers K .. L-1, and what is read behind them (final norm, head)
        theta_S <- zo step from losses at theta_S +- zo_eps z,    theta_D <- fo step along grad_D L(theta)

    While the loss is differentiated the shallow group is frozen, so nothing is stored of what runs below layer K.
    Adapters belong to the layer they sit in. A group without a trainable tensor is left out, with its optimizer.

    Costs the forwards of the method, one more and a partial backward; both are without dropout. State: that of both
    optimizers, and the deep group's gradient between a backward and the next step. Schedulers reach both rates: the
    groups of `param_groups` are those of both optimizers, the shallow one's first.

    Args:
        model: Any module with layers; its parameters with `requires_grad` are tuned.
        hybrid_zo_layers: Layers of the shallow group (K), from 0 to all; None for half of them.
        zo: Makes the method of the shallow group, on the model whose deep group is frozen.
        fo: Makes the optimizer of the deep group's tensors.
        run: Calls the model once, to see the order of its layers; by default on a few tokens.
    Raises:
        UsageError: `hybrid_zo_layers` is out of range.
        IncompatibleError: the model has no layers or does not run; or the method moves weights while it measures.
    References:
        Zhang et al. 2024, arXiv:2402.11592, hybrid ZO-FO training. No code was published.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        hybrid_zo_layers: int | None,
        zo: Callable[[nn.Module], Optimizer],
        fo: Callable[[Sequence[Trainable]], torch.optim.Optimizer],
        run: Callable[[], object] | None = None,
    ) -> None:
        self.model = model
        trainables = collect_trainables(model)
        depths = find_depths(model, trainables, run)
        self.hybrid_zo_layers = check_split(model, hybrid_zo_layers, depths.num_layers)
        self.deep = tuple(t for t in trainables if depths.of[t] >= self.hybrid_zo_layers)
        self.shallow = tuple(t for t in trainables if depths.of[t] < self.hybrid_zo_layers)
        self.zo: Optimizer | None = None
        self.fo: torch.optim.Optimizer | None = None
        if self.shallow:
            with _frozen(self.deep):
                self.zo = zo(model)
            if self.zo.parts.schedule.sequential:
                raise IncompatibleError(
                    f"{type(self.zo.parts.schedule).__name__} moves blocks between their measurements: the gradient "
                    "would be taken at other weights. Use Whole, or a schedule with sequential=False."
                )
        if self.deep:
            self.fo = fo(self.deep)
        self._names = {trainable.parameter: trainable.name for trainable in self.deep}
        self._is_open = True
        super().__init__(self._groups(), {})
        self._is_open = False
        self.num_steps = 0
        self._measured: float | None = None

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in (self.zo, self.fo) if part is not None for group in part.param_groups]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: the tensors are those of the model, by name.

        Raises:
            UsageError: always, once the optimizer is made.
        """
        if not self._is_open:
            raise UsageError("add_param_group() cannot add tensors: set requires_grad, then make a new optimizer.")
        super().add_param_group(param_group)

    # ---------------------------------------------------------------- one step

    def step(self, closure: LossClosure | None = None) -> Tensor:  # pyrefly: ignore[bad-override]
        """Measure and move. Without a closure, make the updates of the last `measure`.

        Returns:
            The training loss that was measured, a float64 scalar.
        Raises:
            UsageError: no closure and nothing measured; or the closure does not return a usable loss.
            NonFiniteLossError: the loss is nan or infinite; see `measure` and `Optimizer.step`.
        """
        if closure is not None:
            self.measure(closure)
        if self._measured is None:
            raise UsageError("step() needs a closure that evaluates the loss, or a measure() before it.")
        loss, self._measured = self._measured, None
        with hold_interrupts():
            self.num_steps += 1
            if self.fo is not None:
                self.fo.step()
            if self.zo is not None:
                self.zo.step()
        return torch.tensor(loss, dtype=torch.float64)

    def measure(self, closure: LossClosure, terms: Iterable[Tensor] | None = None) -> float:
        """Measure the losses of the shallow group and the gradient of the deep one, for `step()`; return the loss.

        It is the loss at the weights themselves where there is a deep group, otherwise that of the method. Weights
        are unchanged on return.

        Args:
            closure: The loss of the step.
            terms: The same loss as a sum whose terms are backpropagated one after the other, computed when they are
                asked for; default: `closure`.
        Raises:
            UsageError: the closure does not return a usable loss.
            NonFiniteLossError: the loss to be differentiated is nan or infinite.
        """
        self._measured = None
        self.zero_grad()
        loss = math.nan
        if self.zo is not None:
            loss = self.zo.estimate(closure)
        if self.fo is not None:
            loss = self._backpropagate(_only_term(closure) if terms is None else terms)
        self._measured = loss
        return loss

    def _backpropagate(self, terms: Iterable[Tensor]) -> float:
        loss = 0.0
        with torch.enable_grad(), eval_mode(self.model), _frozen(self.shallow):
            for term in terms:
                term.backward()
                loss += float(term.item())
        if not math.isfinite(loss):
            rates = " and ".join(f"{group['lr']:g}" for group in self.param_groups)
            raise NonFiniteLossError(
                f"Loss is {loss} at step {self.num_steps}, and has no gradient to follow. Lower the rates ({rates})."
            )
        return loss

    @property
    def engine_name(self) -> str:
        """How losses and gradients are evaluated: the engine of the method, backpropagation, or both."""
        engines = [] if self.zo is None else [self.zo.engine_name]
        return " and ".join([*engines, *([] if self.fo is None else ["backpropagation"])])

    # ---------------------------------------------------------------- state

    @property
    def state_bytes(self) -> int:
        """Bytes of state that both optimizers keep between steps; the deep group's gradient comes on top."""
        return (0 if self.zo is None else self.zo.state_bytes) + (0 if self.fo is None else state_bytes(self.fo))

    def state_dict(self) -> dict[str, Any]:
        """Return counters, settings and state tensors (by parameter name, in their own dtype)."""
        zo = {"state": {}} if self.zo is None else self.zo.state_dict()
        fo = {"state": {}} if self.fo is None else named_state(self.fo, self._names)
        state = {**zo.pop("state"), **fo.pop("state")}
        return {
            "num_steps": self.num_steps,
            "hybrid_zo_layers": self.hybrid_zo_layers,
            "zo": zo,
            "fo": fo,
            "state": state,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            IncompatibleError: the state is of a model with other trainable tensors, or parted at another layer.
        """
        saved, names = state_dict["state"], {trainable.name for trainable in (*self.shallow, *self.deep)}
        if set(saved) != names or state_dict["hybrid_zo_layers"] != self.hybrid_zo_layers:
            raise IncompatibleError("The optimizer state is of another model, or of another hybrid_zo_layers.")
        self.num_steps = int(state_dict["num_steps"])
        if self.zo is not None:
            shallow = {trainable.name: saved[trainable.name] for trainable in self.shallow}
            self.zo.load_state_dict({**state_dict["zo"], "state": shallow})
        if self.fo is not None:
            load_named_state(self.fo, self._names, {**state_dict["fo"], "state": saved})
        self.param_groups = self._groups()
        self._measured = None


@contextmanager
def _frozen(trainables: Sequence[Trainable]) -> Iterator[None]:
    """Take these tensors out of what is tuned or differentiated."""
    try:
        for trainable in trainables:
            trainable.parameter.requires_grad_(False)
        yield
    finally:
        for trainable in trainables:
            trainable.parameter.requires_grad_(True)


def check_split(model: nn.Module, hybrid_zo_layers: int | None, num_layers: int) -> int:
    """Return the number of shallow layers of a model that has so many in all.

    Raises:
        UsageError: `hybrid_zo_layers` is out of range.
        IncompatibleError: there are no layers.
    """
    if not num_layers:
        raise IncompatibleError(
            f"{type(model).__name__} has no layers to be parted at: hybrid training looks for numbered modules beside "
            "each other, as layers.0 and layers.1 are."
        )
    if hybrid_zo_layers is None:
        return num_layers // 2
    if not 0 <= hybrid_zo_layers <= num_layers:
        raise UsageError(
            f"hybrid_zo_layers must be from 0 to {num_layers}, the number of the model's layers, got "
            f"{hybrid_zo_layers}."
        )
    return hybrid_zo_layers


def _only_term(closure: LossClosure) -> Iterator[Tensor]:
    """Yield the loss, to be backpropagated."""
    loss = closure()
    read_loss(loss)
    if not (isinstance(loss, Tensor) and loss.requires_grad):
        raise UsageError("The loss has no gradient: it is a number, or a tensor that does not depend on the weights.")
    yield loss
