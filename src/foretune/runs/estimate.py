"""What a run will need of memory, predicted from the model's configuration before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from foretune.adapters import make_tuning
from foretune.catalogue import TYPICAL_STEPS, recipe_state_bytes
from foretune.depth import find_depths
from foretune.errors import IncompatibleError, UsageError, first_line_of
from foretune.estimators import ForwardMode
from foretune.hybrid import check_split
from foretune.methods import AbstractFirstOrder, AbstractMethod, HybridRecipe, make_recipe
from foretune.runs.config import EstimateConfig
from foretune.runs.live_memory import num_bytes
from foretune.runs.loading import check_device, resolve_dtype
from foretune.runs.scratch_use import ScratchUse
from foretune.runs.shapes import check_length, check_objective, load_shape, shape_dtype
from foretune.runs.step_temporaries import first_order_temporaries, step_temporaries
from foretune.runs.weightless import WeightlessModel
from foretune.types import Trainable

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes of one way to train one model, at most.

    Attributes:
        weights: Parameters and buffers, an adapter's included.
        trainable: Of these, what is tuned.
        inference: Live tensors of one loss without gradient at most.
        state: What the method keeps between steps, and bases of its space.
        layer: Of what is tuned without a gradient, what is copied at a time: the largest layer, and small tensors that
            are held throughout (at most a 256th of the parameters).
        scratch: What the engine keeps: these copies, or a clean copy of what is tuned.
        activations: Live tensors of one loss at most; where it is differentiated, those kept for the backward pass and
            gradients as they come, or tangents.
        gradients: Of what is trained by backpropagation; part of `activations` where these are at their highest.
        update: Temporaries of the update of the largest tensor.
    """

    weights: int
    trainable: int
    inference: int
    state: int
    layer: int = 0
    scratch: int = 0
    activations: int
    gradients: int = 0
    update: int

    @property
    def peak(self) -> int:
        """At most at a time: the loss, or the update that follows it."""
        return self.weights + self.state + self.scratch + max(self.activations, self.gradients + self.update)

    @property
    def inference_peak(self) -> int:
        """Of inference with the same batch: weights and activations."""
        return self.weights + self.inference

    @property
    def allowance(self) -> int:
        """What a method that measures losses alone may take beside inference: one layer and its declared state."""
        return self.layer + self.state


def estimate(config: EstimateConfig) -> Estimate:
    """Predict the memory of a run; nothing of the model's size is allocated.

    Weights, optimizer state and scratch are counted. Activations are those of the run's own loss (and its backward
    pass, or its derivative along a tangent), evaluated on tensors that have shapes and no memory, whose lives are
    followed. Temporaries of updates are taken from a step of the method on two small matrices.

    Raises:
        UsageError: an option is wrong, or the model is unknown or has too few positions.
        IncompatibleError: the model cannot be followed without weights, or the engine is ``paired``.
    """
    config.check()
    tuning = make_tuning(config.tuning)
    name = config.method["name"]
    recipe = make_recipe(name, config.method_options, total_steps=TYPICAL_STEPS, tuning=tuning.name)
    if isinstance(recipe, AbstractFirstOrder) and config.engine != "auto":
        raise UsageError(f"--engine {config.engine}: '{name}' is a first-order baseline, which perturbs nothing.")
    if config.engine == "paired":
        raise IncompatibleError(
            "--engine paired: the memory of several evaluations in one forward cannot be predicted yet. Ask for "
            "layerwise, and expect twice its activations and scratch."
        )
    model_config = load_shape(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    check_objective(model_config, config.objective)
    num_virtual = getattr(tuning, "num_virtual_tokens", 0)
    check_length(model_config, config.sequence_length, num_virtual_tokens=num_virtual)
    device = _device(config.device)
    dtype = resolve_dtype(config.dtype, torch.device(device))
    if not isinstance(dtype, torch.dtype):
        dtype = shape_dtype(model_config)
    with _followed(config.model):
        model = WeightlessModel(
            model_config,
            tuning,
            dtype=dtype,
            objective=config.objective,
            batch_size=config.batch_size,
            length=config.sequence_length,
        )
        prediction = _Prediction(model, dtype, device, in_place=config.engine == "in_place")
        if isinstance(recipe, HybridRecipe):
            return prediction.of_hybrid(recipe)
        if isinstance(recipe, AbstractFirstOrder):
            return prediction.of_baseline(recipe)
        assert isinstance(recipe, AbstractMethod)
        return prediction.of_method(recipe)


def _device(device: str) -> Device:
    """Return the kind of device, which need not be in this machine."""
    check_device(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


@contextmanager
def _followed(model: str) -> Iterator[None]:
    """Name the model where its forward asks for values, which are not there."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        raise IncompatibleError(
            f"--model {model}: its forward cannot be followed without weights: {first_line_of(error)}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Prediction:
    """Counts the parts of an estimate on one model.

    Attributes:
        model: The model, and its loss.
        dtype: Of its weights.
        device: Where the run will be.
        in_place: Whether the engine perturbs the weights themselves.
    """

    model: WeightlessModel
    dtype: torch.dtype
    device: Device
    in_place: bool

    def of_method(self, recipe: AbstractMethod) -> Estimate:
        trainables, inference = self.model.trainables, self.model.loss_bytes()
        use = self.model.scratch(trainables)
        measuring, updating = self._temporaries(recipe, trainables)
        differentiates = isinstance(recipe.parts().estimator, ForwardMode)
        if differentiates:
            activations = self.model.slope_bytes(None if self.in_place else use)
        else:
            activations = max(inference, measuring)
        return Estimate(
            weights=num_bytes(self.model.weights),
            trainable=_bytes_of(trainables),
            inference=inference,
            state=recipe_state_bytes(recipe, trainables) + _basis_bytes(recipe, trainables),
            layer=use.peak,
            scratch=0 if differentiates and self.in_place else self._scratch(use),
            activations=activations,
            update=updating,
        )

    def of_baseline(self, recipe: AbstractFirstOrder) -> Estimate:
        trainables = self.model.trainables
        return Estimate(
            weights=num_bytes(self.model.weights),
            trainable=_bytes_of(trainables),
            inference=self.model.loss_bytes(),
            state=recipe_state_bytes(recipe, trainables),
            activations=self.model.backward_bytes(trainables, train_mode=not recipe.fo_eval_mode),
            gradients=_bytes_of(trainables),
            update=self._first_order_update(recipe, trainables),
        )

    def of_hybrid(self, recipe: HybridRecipe) -> Estimate:
        shallow, deep = self._parted(recipe)
        inference, use = self.model.loss_bytes(), self.model.scratch(shallow)
        activations, updates = [inference], [0]
        if shallow:
            measuring, updating = self._temporaries(recipe.zo, shallow)
            activations.append(measuring)
            updates.append(updating)
        if deep:
            activations.append(self.model.backward_bytes(deep, train_mode=False))
            updates.append(self._first_order_update(recipe.fo, deep))
        return Estimate(
            weights=num_bytes(self.model.weights),
            trainable=_bytes_of(self.model.trainables),
            inference=inference,
            state=recipe_state_bytes(recipe.zo, shallow) + recipe_state_bytes(recipe.fo, deep),
            layer=use.peak,
            scratch=self._scratch(use),
            activations=max(activations),
            gradients=_bytes_of(deep),
            update=max(updates),
        )

    def _scratch(self, use: ScratchUse) -> int:
        if self.in_place:
            return _bytes_of(use.trainables)
        return use.peak if self.device == "cuda" else use.touched_peak

    def _temporaries(self, recipe: AbstractMethod, trainables: Sequence[Trainable]) -> tuple[int, int]:
        """Return what measuring and updating make for the largest tensor."""
        largest = max(trainables, key=lambda trainable: trainable.parameter.numel())
        return step_temporaries(recipe, self.dtype, largest.matrix_shape or (largest.parameter.numel(), 1))

    def _first_order_update(self, recipe: AbstractFirstOrder, trainables: Sequence[Trainable]) -> int:
        largest = max(_bytes_of([trainable]) for trainable in trainables)
        return round(first_order_temporaries(recipe, self.dtype) * largest)

    def _parted(self, recipe: HybridRecipe) -> tuple[list[Trainable], list[Trainable]]:
        """Return what a hybrid trains without and with a gradient."""
        with self.model.running():
            depths = find_depths(self.model.model, self.model.trainables)
        split = check_split(self.model.model, recipe.hybrid_zo_layers, depths.num_layers)
        shallow = [trainable for trainable in self.model.trainables if depths.of[trainable] < split]
        return shallow, [trainable for trainable in self.model.trainables if trainable not in shallow]


def _bytes_of(trainables: Sequence[Trainable]) -> int:
    return num_bytes(trainable.parameter for trainable in trainables)


def _basis_bytes(recipe: AbstractMethod, trainables: Sequence[Trainable]) -> int:
    space = recipe.parts().space
    return sum(space.num_basis_elements(t) * t.compute_dtype.itemsize for t in trainables)
