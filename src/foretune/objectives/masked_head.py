"""Logits at the mask alone, and of the label words alone where the head's structure allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from foretune.objectives.inspection import agree, plain_language_model, probing

_PROBE_TOKENS = 4


class MaskedBatch(TypedDict):
    """Prompts with one mask each as tensors; a plain dict, so Trainer and accelerate move it to the device.

    Keys:
        input_ids: (B, T) int64, padded on the right.
        attention_mask: (B, T) int64, 0 on padding; only where there is any.
        mask_positions: (B,) int64.
        candidate_ids: (B, K) int64, the token of each class's word.
        labels: (B,) int64, the right class.
    """

    input_ids: Tensor
    attention_mask: NotRequired[Tensor]
    mask_positions: Tensor
    candidate_ids: Tensor
    labels: Tensor


def mask_logits(model: nn.Module, batch: MaskedBatch) -> Tensor:
    """Return the logits of `candidate_ids` at the mask, float32, shape (B, K), from those of all positions."""
    logits = model(**_inputs(batch)).logits
    at_mask = logits[torch.arange(len(logits), device=logits.device), batch["mask_positions"]]
    return at_mask.gather(1, batch["candidate_ids"]).float()


@dataclass(frozen=True, slots=True)
class MaskedHead:
    """A model's body and head, so that the head sees the hidden state at the mask only.

    The model's own forward runs; a hook on the body hands on one position. Where there is a `lookup`, label words are
    looked up as embeddings: neither the product with the whole vocabulary nor, for a perturbed model, the perturbation
    of the whole table is made.

    Attributes:
        model: The model that was looked at.
        inner: The same without the wrapper of peft.
        body: What makes its hidden states.
        lookup: How the decoder is replaced; None = it computes the whole vocabulary.
    """

    model: nn.Module
    inner: nn.Module
    body: nn.Module
    lookup: _Lookup | None

    def logits(self, batch: MaskedBatch) -> Tensor:
        """Return the logits of `candidate_ids` at the mask, float32, shape (B, K)."""
        positions, candidate_ids = batch["mask_positions"], batch["candidate_ids"]
        rows = torch.arange(len(positions), device=positions.device)

        def keep_mask(module: nn.Module, args: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[rows, positions].unsqueeze(1)
            return output

        handle = self.body.register_forward_hook(keep_mask)
        try:
            if self.lookup is None:
                return self.inner(**_inputs(batch)).logits[:, 0].gather(1, candidate_ids).float()
            with self.lookup.in_place_of_decoder(candidate_ids):
                return self.inner(**_inputs(batch)).logits[:, 0]
        finally:
            handle.remove()


@dataclass(frozen=True, slots=True)
class _Lookup:
    """A decoder that is the embedding table, with a bias that its parent owns, too.

    Attributes:
        embedding: The table.
        parent: The module that calls the decoder.
        decoder_name: What it calls it.
        bias_name: What it calls the bias; None = there is none.
    """

    embedding: nn.Embedding
    parent: nn.Module
    decoder_name: str
    bias_name: str | None

    @contextmanager
    def in_place_of_decoder(self, candidate_ids: Tensor) -> Iterator[None]:
        """Let the parent compute the logits of these words alone, float32, shape (B, 1, K)."""

        def decode(features: Tensor) -> Tensor:
            logits = features.float() @ self.embedding(candidate_ids).float().transpose(1, 2)
            if self.bias_name is None:
                return logits
            # read while the parent runs, which is when an engine has its perturbed value in place
            return logits + getattr(self.parent, self.bias_name)[candidate_ids].float().unsqueeze(1)

        # an attribute of the instance hides the registered module, which stays where it is
        self.parent.__dict__[self.decoder_name] = decode
        try:
            yield
        finally:
            del self.parent.__dict__[self.decoder_name]


def find_masked_head(model: nn.Module, agrees: Callable[[MaskedHead], bool] | None = None) -> MaskedHead | None:
    """Return body and head of a masked language model, None if they cannot be told apart.

    The structure is looked at first, then the logits are compared with the model's own on a few tokens.

    Args:
        model: The model.
        agrees: The comparison, where there are no values to compare.
    """
    inner = plain_language_model(model)
    if inner is None or inner.base_model is inner:
        return None
    whole = MaskedHead(model, inner, inner.base_model, None)
    lookup = _find_lookup(inner)
    heads = [whole] if lookup is None else [replace(whole, lookup=lookup), whole]
    with probing(inner):
        return next(filter(agrees or _agrees, heads), None)


def _find_lookup(inner: Any) -> _Lookup | None:
    decoder, embedding = inner.get_output_embeddings(), inner.get_input_embeddings()
    if type(decoder) is not nn.Linear or type(embedding) is not nn.Embedding:
        return None
    if decoder.weight is not embedding.weight or embedding.max_norm is not None:
        return None
    path = next((name for name, module in inner.named_modules() if module is decoder), "")
    parent_path, _, decoder_name = path.rpartition(".")
    parent = inner.get_submodule(parent_path)
    if decoder.bias is None:
        return _Lookup(embedding, parent, decoder_name, None)
    own = parent.named_parameters(recurse=False)
    bias_name = next((name for name, parameter in own if parameter is decoder.bias), None)
    return None if bias_name is None else _Lookup(embedding, parent, decoder_name, bias_name)


def _agrees(head: MaskedHead) -> bool:
    """Whether a head's logits are the model's own, on a row of a few tokens and for the whole vocabulary."""
    weight = head.inner.get_input_embeddings().weight  # type: ignore[operator]
    batch: MaskedBatch = {
        "input_ids": torch.arange(_PROBE_TOKENS, device=weight.device).view(1, -1),
        "mask_positions": torch.tensor([_PROBE_TOKENS // 2], device=weight.device),
        "candidate_ids": torch.arange(len(weight), device=weight.device).view(1, -1),
        "labels": torch.zeros(1, dtype=torch.int64, device=weight.device),
    }
    theirs = mask_logits(head.inner, batch)
    try:
        ours = head.logits(batch)
    except (AttributeError, IndexError, RuntimeError, TypeError):  # a body or head of another kind
        return False
    return agree(ours, theirs, weight.dtype)


def _inputs(batch: MaskedBatch) -> dict[str, Tensor]:
    """Return what a masked language model is called with: it derives the positions itself, from the left."""
    inputs = {"input_ids": batch["input_ids"]}
    attention_mask = batch.get("attention_mask")
    return inputs if attention_mask is None else {**inputs, "attention_mask": attention_mask}
