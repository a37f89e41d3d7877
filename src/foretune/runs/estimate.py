"""What a run will need of memory, predicted from the model's configuration before any weight is loaded."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig

from foretune.adapters import AbstractTuning, make_tuning
from foretune.catalogue import TYPICAL_STEPS, recipe_state_bytes
from foretune.engine.layerwise import Layerwise
from foretune.engine.ownership import find_owners, reads_rows
from foretune.engine.scratch import aligned
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators.forward_mode import ForwardMode
from foretune.methods import AbstractFirstOrder, AbstractMethod, AbstractRecipe, HybridRecipe, make_recipe
from foretune.objectives.inspection import plain_language_model, probing
from foretune.objectives.split_head import SplitHead
from foretune.objectives.tied_head import TiedHead
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.config import EstimateConfig
from foretune.runs.live_memory import LiveMemory, num_bytes
from foretune.runs.loading import check_kind, resolve_dtype
from foretune.runs.shapes import check_length, load_shape, shape_dtype
from foretune.runs.synthetic import probe_loss, synthetic_rows
from foretune.types import Trainable

Device = Literal["cpu", "cuda"]
_TOY_SHAPE = (192, 128)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of one way to train one model, at most.

    Attributes:
        weights: Parameters and buffers, an adapter's included.
        trainable: Of these, what is tuned.
        state: What the method keeps between steps.
        scratch: What the engine keeps: perturbed copies of the largest layer, or a clean copy of what is tuned.
        activations: Live tensors of one loss at most; with first-order methods those kept for the backward pass, and
            gradients as they come.
        gradients: Of first-order methods; part of `activations` where these are at their highest.
        inference: Live tensors of one loss without gradient at most.
        update: Temporaries of the update of the largest tensor.
    """

    weights: int
    trainable: int
    state: int
    scratch: int
    activations: int
    gradients: int
    inference: int
    update: int

    @property
    def peak(self) -> int:
        """At most at a time: the loss, or the update that follows it."""
        return self.weights + self.state + self.scratch + max(self.activations, self.gradients + self.update)

    @property
    def inference_peak(self) -> int:
        """Of inference with the same batch: weights and activations."""
        return self.weights + self.inference


def estimate(config: EstimateConfig) -> Estimate:
    """Predict the memory of a run; nothing of the model's size is allocated.

    Weights, optimizer state and scratch are counted. Activations are those of the run's own loss, evaluated on tensors
    that have shapes and no memory (`FakeTensorMode`), whose lives are followed: any architecture is, layer by layer,
    what it would be. Temporaries of updates are taken from a step of the method on two small matrices.

    Raises:
        UsageError: an option is wrong, or the model is unknown or has too few positions.
        IncompatibleError: the method or the model cannot be followed without weights.
    """
    config.check()
    tuning = make_tuning(config.tuning)
    recipe = make_recipe(config.method["name"], config.method_options, total_steps=TYPICAL_STEPS, tuning=tuning.name)
    _check_recipe(recipe, config.engine)
    if config.engine == "paired":
        raise IncompatibleError(
            "--engine paired: the memory of several evaluations in one forward cannot be predicted yet. Ask for "
            "layerwise, and expect twice its activations and scratch."
        )
    model_config = load_shape(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    check_kind(model_config, "causal")
    num_virtual = getattr(tuning, "num_virtual_tokens", 0)
    check_length(model_config, config.sequence_length, num_virtual_tokens=num_virtual)
    device = _device(config.device)
    dtype = resolve_dtype(config.dtype, torch.device(device))
    if not isinstance(dtype, torch.dtype):
        dtype = shape_dtype(model_config)
    with _followed(config.model):
        return _predict(config, recipe, tuning, model_config, dtype=dtype, device=device)


def _device(device: str) -> Device:
    """Return the kind of device, which need not be in this machine."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def _check_recipe(recipe: AbstractRecipe, engine: str) -> None:
    name = recipe.describe()["name"]
    if isinstance(recipe, HybridRecipe) or (
        isinstance(recipe, AbstractMethod) and isinstance(recipe.parts().estimator, ForwardMode)
    ):
        raise IncompatibleError(
            f"--method {name}: its memory cannot be predicted yet, only that of finite differences."
        )
    if isinstance(recipe, AbstractFirstOrder) and engine != "auto":
        raise UsageError(f"--engine {engine}: '{name}' is a first-order baseline, which perturbs nothing.")


@contextmanager
def _followed(model: str) -> Iterator[None]:
    """Name the model where its forward asks for values, which are not there."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise IncompatibleError(f"--model {model}: its forward cannot be followed without weights: {reason}") from error


def _predict(
    config: EstimateConfig,
    recipe: AbstractRecipe,
    tuning: AbstractTuning,
    model_config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    device: Device,
) -> Estimate:
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    model = _model_without_memory(model_config, tuning, fakes, dtype)
    rows = synthetic_rows(model_config, num_rows=config.batch_size, length=config.sequence_length)
    with fakes, _plain_masks():
        split_head = _split_head(model)
    loss = probe_loss(config.objective, rows, model, split_head, _tied_head(model, split_head))
    with fakes, _plain_masks():
        trainables = collect_trainables(model, shapes_only=True)
        weights = [*model.parameters(), *model.buffers()]
        scratch = _Scratch(model, trainables)
        inference = _peak_of(loss, weights, scratch)
        trainable_bytes = num_bytes(trainable.parameter for trainable in trainables)
        counted = {
            "weights": num_bytes(weights),
            "trainable": trainable_bytes,
            "state": recipe_state_bytes(recipe, trainables),
            "inference": inference,
        }
    if isinstance(recipe, AbstractFirstOrder):
        with fakes, _plain_masks():
            activations = _peak_of_backward(loss, model, weights, train_mode=not recipe.fo_eval_mode)
        largest = max(trainable.parameter.numel() * trainable.parameter.itemsize for trainable in trainables)
        update = round(_first_order_temporaries(recipe, dtype) * largest)
        return Estimate(**counted, scratch=0, activations=activations, gradients=trainable_bytes, update=update)
    assert isinstance(recipe, AbstractMethod)
    parts = recipe.parts()
    sizes = (_coordinate_bytes(parts.space, trainable) for trainable in trainables)
    measuring, updating = (round(ratio * size) for size in [max(sizes)] for ratio in _temporaries(recipe, dtype))
    layerwise = scratch.peak if device == "cuda" else scratch.touched_peak
    return Estimate(
        **counted,
        scratch=trainable_bytes if config.engine == "in_place" else layerwise,
        activations=max(inference, measuring),
        gradients=0,
        update=updating,
    )


# ---------------------------------------------------------------- the model


def _model_without_memory(
    config: PreTrainedConfig, tuning: AbstractTuning, fakes: FakeTensorMode, dtype: torch.dtype
) -> Any:
    """Return a model of tensors that have no memory, and an adapter's small real ones."""
    from transformers import AutoModelForCausalLM

    with fakes:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.config.pad_token_id = None  # some forwards look for padding among values, to warn
    with _plain_masks():
        return tuning.attach(model, seed=0).eval()


@contextmanager
def _plain_masks() -> Iterator[None]:
    """Have models built as they are for real tensors.

    Where positions restart within a row, transformers makes a mask that keeps apart the texts that were packed into
    it. It looks at values for that, and where there are none makes the mask in any case. Ours never restart.
    """
    with mock.patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None):
        yield


def _split_head(model: nn.Module) -> SplitHead | None:
    """Say what `find_split_head` would: where values cannot be compared, the same operators make the same values."""
    inner = plain_language_model(model)
    if inner is None:
        return None
    body, head = inner.base_model, inner.get_output_embeddings()
    if not isinstance(head, nn.Module) or body is inner:
        return None
    found = SplitHead(model, body, head)
    ids = torch.arange(4).view(1, -1)
    with probing(inner):
        with _Operators() as whole:
            inner(input_ids=ids, use_cache=False)
        with _Operators() as parts:
            head(found.hidden({"input_ids": ids}))
    return found if whole.names == parts.names else None


def _tied_head(model: nn.Module, split_head: SplitHead | None) -> TiedHead | None:
    """Say what `find_tied_head` would: the head is a plain product with the table of embeddings."""
    inner = plain_language_model(model)
    if inner is None or split_head is None:
        return None
    head, embedding = split_head.head, inner.get_input_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and type(embedding) is nn.Embedding
    return TiedHead(model, split_head.body, embedding) if plain and head.weight is embedding.weight else None


class _Operators(TorchDispatchMode):
    """Notes which operators compute something; views of what is there, and questions about it, do not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim" and not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- a loss


class _Followed(LiveMemory):
    """Live memory of fake tensors that are read by masks whose values are known."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index.Tensor:
            tensor, indices = args
            args = (tensor, [index for mask in indices for index in _as_indices(mask)])
        return super().__torch_dispatch__(func, types, args, kwargs)


def _as_indices(mask: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return where a real mask is True: how many places that are, a fake tensor cannot tell."""
    if mask is None or mask.dtype != torch.bool or isinstance(mask, FakeTensor):
        return (mask,)
    with unset_fake_temporarily():
        return mask.nonzero(as_tuple=True)


@dataclass
class _Scratch:
    """Follows what `Layerwise` would hold for the modules that are running.

    Attributes:
        peak: Bytes that it allocates.
        touched_peak: Bytes that it writes to: of an embedding only the rows that are looked up. On a CPU memory that
            is never written takes no place.
    """

    model: nn.Module
    trainables: tuple[Trainable, ...]
    peak: int = 0
    touched_peak: int = 0
    _open: list[tuple[nn.Module, list[tuple[Trainable, int, int]]]] = field(default_factory=list)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """A block in which the model runs."""
        handles = []
        for module, members in find_owners(self.model, self.trainables):
            handles.append(module.register_forward_pre_hook(self._before(members, reads_rows(module))))
            handles.append(module.register_forward_hook(self._after, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, members: tuple[Trainable, ...], by_rows: bool) -> Callable[[nn.Module, Any], None]:
        def open_members(module: nn.Module, args: tuple[Any, ...]) -> None:
            known = {trainable for _, opened in self._open for trainable, _, _ in opened}
            opened = []
            for trainable in members:
                if trainable not in known:
                    size = aligned(trainable.parameter.numel() * trainable.parameter.itemsize)
                    row = trainable.parameter[0].numel() * trainable.parameter.itemsize if by_rows else 0
                    opened.append((trainable, size, min(size, args[0].numel() * row) if by_rows else size))
            self._open.append((module, opened))
            held = [sizes for _, of_module in self._open for _, *sizes in of_module]
            self.peak = max(self.peak, sum(size for size, _ in held))
            self.touched_peak = max(self.touched_peak, sum(touched for _, touched in held))

        return open_members

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop()


def _peak_of(loss: Callable[[], Tensor], weights: list[Tensor], scratch: _Scratch) -> int:
    """Return the bytes of live tensors of one evaluation at most."""
    with scratch.followed(), torch.no_grad(), _Followed(weights) as live:
        loss()
    return live.peak_bytes


def _peak_of_backward(loss: Callable[[], Tensor], model: nn.Module, weights: list[Tensor], *, train_mode: bool) -> int:
    """Return the same with a backward pass, gradients included."""
    model.train(train_mode)
    with _Followed(weights) as live:
        loss().backward()
    return live.peak_bytes


# ---------------------------------------------------------------- a step


class _Toy(nn.Module):
    """A matrix that is summed, by a module of its own."""

    def __init__(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(rows, columns, dtype=dtype))

    def forward(self) -> Tensor:
        """Return the sum, float32."""
        return self.weight.sum(dtype=torch.float32)


def _toy(dtype: torch.dtype) -> nn.ModuleDict:
    rows, columns = _TOY_SHAPE
    return nn.ModuleDict({"lora_A": _Toy(rows, columns, dtype), "lora_B": _Toy(columns, rows, dtype)})


def _temporaries(recipe: AbstractMethod, dtype: torch.dtype) -> tuple[float, float]:
    """Return what measuring and updating make beside scratch and state, in sizes of the coordinates of one tensor."""
    model = _toy(dtype)
    optimizer = Optimizer(model, **recipe.optimizer_arguments(), engine="layerwise")

    def closure() -> Tensor:
        return model["lora_A"]() + model["lora_B"]()

    for _ in range(2):  # state and scratch reach their size
        optimizer.step(closure)
    assert isinstance(optimizer.engine, Layerwise)
    kept = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    kept += optimizer.engine.scratch_buffers
    with LiveMemory([*model.parameters(), *kept]) as measuring:
        optimizer.estimate(closure)
    with LiveMemory([*model.parameters(), *kept]) as updating:
        optimizer.step()
    size = max(_coordinate_bytes(optimizer.parts.space, trainable) for trainable in optimizer.trainables)
    return measuring.peak_bytes / size, updating.peak_bytes / size


def _coordinate_bytes(space: Any, trainable: Trainable) -> int:
    return int(torch.Size(space.coordinate_shape(trainable)).numel()) * trainable.compute_dtype.itemsize


def _first_order_temporaries(recipe: AbstractFirstOrder, dtype: torch.dtype) -> float:
    """Return what the optimizer of torch makes beside its state, in sizes of one tensor."""
    weight = nn.Parameter(torch.ones(_TOY_SHAPE, dtype=dtype))  # alone: its neighbours are smaller than the largest
    optimizer = recipe.optimizer(collect_trainables(nn.ParameterDict({"weight": weight})))
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    with LiveMemory([weight, weight.grad, *kept]) as live:
        optimizer.step()
    return live.peak_bytes / (weight.numel() * weight.itemsize)


def process_bytes() -> int:
    """Return what this process takes now, libraries and all (at most so far, in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
