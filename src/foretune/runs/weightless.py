"""A language model on tensors that have shapes and no memory, and what its loss would hold at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig

from foretune.adapters import AbstractTuning
from foretune.engine.forward_mode import attach_tangent, drop_tangent, forward_mode
from foretune.objectives.inspection import plain_language_model, probing
from foretune.objectives.masked_head import MaskedHead, find_masked_head
from foretune.objectives.split_head import SplitHead, supposed_split_head, two_ways
from foretune.objectives.tied_head import TiedHead
from foretune.parameters import collect_trainables
from foretune.runs.config import ProbedObjective
from foretune.runs.live_memory import LiveMemory
from foretune.runs.loading import model_kind
from foretune.runs.scratch_use import ScratchUse, opened_by_layer
from foretune.runs.shapes import model_class
from foretune.runs.synthetic import masked_probe_loss, probe_loss, synthetic_rows
from foretune.types import Trainable


class WeightlessModel:
    """A model of which nothing is allocated, and the loss that its memory is measured with.

    Its tensors are those of `FakeTensorMode`: operators tell the shapes of their results and compute nothing. Any
    architecture is, layer by layer, what it would be; one whose forward asks for values cannot be followed.

    Args:
        config: Of the model.
        tuning: What is tuned.
        dtype: Of the weights.
        objective: The loss: of all tokens, or of two words.
        batch_size, length: Rows of random tokens, and tokens of each.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        tuning: AbstractTuning,
        *,
        dtype: torch.dtype,
        objective: ProbedObjective,
        batch_size: int,
        length: int,
    ) -> None:
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        with self._fakes:
            base = model_class(config).from_config(config, dtype=dtype).eval()
        base.config.pad_token_id = None  # some forwards look for padding among values, to warn
        with _plain_masks():
            self.model: Any = tuning.attach(base, seed=0).eval()
        _forget_values(self.model, self._fakes)
        rows = synthetic_rows(config, num_rows=batch_size, length=length)
        with self.running():
            self.trainables = collect_trainables(self.model, shapes_only=True)
            self.weights = [*self.model.parameters(), *self.model.buffers()]
            if model_kind(config) == "masked":
                make_loss = partial(masked_probe_loss, head=find_masked_head(self.model, _takes_the_mask_alone))
            else:
                split_head = _split_head(self.model)
                tied_head = _tied_head(self.model, split_head)
                make_loss = partial(probe_loss, objective, split_head=split_head, tied_head=tied_head)
        self._loss: Callable[[], Tensor] = make_loss(rows=rows, model=self.model)  # its batch has values

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the model can be called."""
        with self._fakes, _plain_masks():
            yield

    def loss_bytes(self) -> int:
        """Return the bytes of live tensors of one loss without derivatives, at most."""
        with self.running(), torch.no_grad(), _Followed(self.weights) as live:
            self._loss()
        return live.peak_bytes

    def scratch(self, trainables: Iterable[Trainable]) -> ScratchUse:
        """Return what the layerwise engine would hold for these tensors in a loss."""
        use = ScratchUse(self.model, tuple(trainables))
        with self.running(), torch.no_grad(), use.followed(), _Followed(self.weights):
            self._loss()
        return use

    def backward_bytes(self, trainables: Iterable[Trainable], *, train_mode: bool) -> int:
        """Return the same of a loss and its gradient with respect to these tensors, which is counted as it grows."""
        wanted = {id(trainable.parameter) for trainable in trainables}
        frozen = [trainable.parameter for trainable in self.trainables if id(trainable.parameter) not in wanted]
        self.model.train(train_mode)
        with self.running():
            for parameter in frozen:
                parameter.requires_grad_(False)
            with _Followed(self.weights) as live:
                loss = self._loss()
                with live.backward():
                    loss.backward()
            for parameter in frozen:
                parameter.requires_grad_(True)
            self.model.zero_grad()
        self.model.eval()
        return live.peak_bytes

    def slope_bytes(self, scratch: ScratchUse | None) -> int:
        """Return the same of a loss and its derivative along a tangent, in forward mode.

        A tensor's velocity is not counted, but the copy of it that goes with the parameter is. Where a real run has
        tangents that are known to be zero, those of frozen tensors, there are dense ones here, which are not counted
        either: fake tensors of that kind have no views. What is computed from them is short-lived.

        Args:
            scratch: Where the layerwise engine writes velocities: a module has tangents while it runs. None: all
                tensors have them.
        """
        frozen = [parameter for parameter in self.model.parameters() if not parameter.requires_grad]
        with self.running():
            velocities = {t: torch.empty_like(t.parameter, requires_grad=False) for t in self.trainables}
            with _Followed([*self.weights, *velocities.values()]) as live, ExitStack() as stack:
                stack.enter_context(forward_mode())
                with live.ignoring():
                    for parameter in frozen:
                        attach_tangent(parameter, torch.empty_like(parameter))

                def attach(trainable: Trainable) -> None:
                    velocity = velocities[trainable]
                    if scratch is not None and scratch.peak != velocity.nbytes:
                        velocity = torch.empty_like(velocity)  # torch copies what lies in a larger buffer
                    with live.ignoring():  # fake tensors are copied by way of another
                        attach_tangent(trainable.parameter, velocity)
                    tangent = forward_ad.unpack_dual(trainable.parameter).tangent
                    assert tangent is not None
                    live.count(tangent)

                def attach_all(module: nn.Module, args: Any, members: Sequence[Trainable]) -> None:
                    for trainable in members:
                        attach(trainable)

                def drop_all(members: Sequence[Trainable]) -> None:
                    for trainable in members:
                        drop_tangent(trainable.parameter)

                if scratch is not None:
                    stack.enter_context(opened_by_layer(self.model, self.trainables, attach_all, drop_all))
                else:
                    attach_all(self.model, (), self.trainables)
                self._loss()
        return live.peak_bytes


def _forget_values(model: nn.Module, fakes: FakeTensorMode) -> None:
    """Let tensors of an adapter, which has made them with values, have shapes alone as well."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if not isinstance(parameter, FakeTensor):
                forgotten: Any = fakes.from_tensor(parameter)
                module._parameters[name] = forgotten


@contextmanager
def _plain_masks() -> Iterator[None]:
    """Have models built as they are for real tensors.

    Where positions restart within a row, transformers makes a mask that keeps apart the texts that were packed into
    it. It looks at values for that, and where there are none makes the mask in any case. Ours never restart.
    """
    with mock.patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None):
        yield


# ---------------------------------------------------------------- heads, where values cannot be compared


def _split_head(model: nn.Module) -> SplitHead | None:
    """Say what `find_split_head` would: the same operators make the same values."""
    found = supposed_split_head(model)
    if found is None:
        return None
    with probing(model):
        whole, parts = map(_operators, two_ways(found))
    return found if whole == parts else None


def _tied_head(model: nn.Module, split_head: SplitHead | None) -> TiedHead | None:
    """Say what `find_tied_head` would: the head is a plain product with the table of embeddings."""
    inner = plain_language_model(model)
    if inner is None or split_head is None or split_head.body is None:
        return None
    head, embedding = split_head.head, inner.get_input_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and type(embedding) is nn.Embedding
    return TiedHead(model, split_head.body, embedding) if plain and head.weight is embedding.weight else None


def _takes_the_mask_alone(head: MaskedHead) -> bool:
    """Whether a masked head's hook takes one position out of the hidden states, and logits are made of it."""
    vocabulary = head.inner.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids, position = torch.arange(4).view(1, -1), torch.tensor([2])
    words = torch.arange(vocabulary).view(1, -1)
    batch: Any = {"input_ids": ids, "mask_positions": position, "candidate_ids": words}
    try:
        return head.logits(batch).shape == (1, vocabulary)
    except (AttributeError, IndexError, TypeError):  # a body or head of another kind
        return False


def _operators(call: Callable[[], object]) -> list[str]:
    """Return the operators that compute something in a call; views of what is there, and questions, do not."""
    with _Operators() as seen:
        call()
    return seen.names


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim" and not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


# ---------------------------------------------------------------- live tensors


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
