"""Log-probabilities by hidden states equal those of the whole model, a chunk at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import foretune
import model_zoo
from foretune.errors import UsageError
from foretune.objectives import EncodedExample, LMObjective, find_split_head, split_head
from foretune.objectives.batches import collate_texts
from foretune.objectives.split_head import read_logprobs


@pytest.fixture
def batch():
    rows = [
        EncodedExample(((0, *range(4, 4 + length)),), (option,), (0,), "row")
        for length, option in ((9, 5), (6, 3), (4, 4))
    ]
    return collate_texts(rows, only_option=True)


SPLIT = {
    **{f.__name__: f for f in (model_zoo.opt, model_zoo.llama, model_zoo.qwen2, model_zoo.gpt2, model_zoo.gemma)},
    "mistral": model_zoo.mistral,
    "bloom": model_zoo.bloom,
    "mixtral": model_zoo.mixtral,
    "opt_lora": lambda: model_zoo.with_adapter(model_zoo.opt, "lora"),
    "opt_prefix": lambda: model_zoo.with_adapter(model_zoo.opt, "prefix"),
    "llama_prefix": lambda: model_zoo.with_adapter(model_zoo.llama, "prefix"),
    "opt_prompt": lambda: model_zoo.with_adapter(model_zoo.opt, "prompt"),
    "llama_prompt": lambda: model_zoo.with_adapter(model_zoo.llama, "prompt"),
}
WHOLE = {
    "gemma2": model_zoo.gemma2,  # caps its logits
    "compiled": lambda: torch.compile(model_zoo.opt()),
    "gemma2_prompt": lambda: model_zoo.with_adapter(model_zoo.gemma2, "prompt"),
    "no language model": lambda: nn.Linear(2, 2),
}


@pytest.mark.parametrize("chunk", [1024, 4, 1])
@pytest.mark.parametrize("name", SPLIT)
def test_log_probabilities_are_those_of_the_models_own_logits(name, chunk, batch, monkeypatch):
    model = SPLIT[name]().eval()
    found = find_split_head(model)
    assert found is not None
    monkeypatch.setattr(split_head, "CHUNK_TOKENS", chunk)
    with torch.no_grad():
        ours, theirs = (read_logprobs(model, batch, head) for head in (found, None))
    assert ours.shape == (12, 1)
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_other_models_are_left_whole(name):
    assert find_split_head(WHOLE[name]()) is None


def test_logits_that_are_changed_behind_the_head_are_found_by_comparison():
    model = model_zoo.opt()
    forward = model.forward

    def scaled(**inputs):
        output = forward(**inputs)
        output.logits = output.logits * 1.01
        return output

    model.forward = scaled
    assert find_split_head(model) is None


def test_half_precision_models_are_split():
    assert find_split_head(model_zoo.opt().bfloat16()) is not None


def test_the_parts_of_another_model_are_refused(batch):
    objective = LMObjective.for_model(model_zoo.opt())
    with pytest.raises(UsageError, match="parts of another model"):
        objective.loss(model_zoo.opt(), batch)


def test_the_heads_own_forward_is_back_whatever_happened(batch):
    model = model_zoo.opt().eval()
    found = find_split_head(model)
    hidden = torch.zeros(3, model_zoo.HIDDEN)
    with pytest.raises(RuntimeError, match="split expects"):
        found.logprobs(hidden, torch.zeros((), dtype=torch.int64))
    assert "forward" not in vars(model.lm_head)
    wrapped = model.lm_head.forward = lambda states, own=model.lm_head.forward: own(states) + 1
    found.logprobs(hidden, torch.zeros((3, 1), dtype=torch.int64))
    assert model.lm_head.forward is wrapped


class LargestOf(TorchDispatchMode):
    """Notes the most elements of a tensor whose last dimension is the vocabulary."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, leaf.numel() // self.vocabulary)
        return out


@pytest.mark.parametrize("adapter", [None, "prefix", "prompt"])
def test_no_more_logits_than_a_chunks_are_held(adapter, batch, monkeypatch):
    # its head is not the transposed table, which would be counted
    model = model_zoo.llama() if adapter is None else model_zoo.with_adapter(model_zoo.llama, adapter)
    model.eval()
    found = find_split_head(model)
    monkeypatch.setattr(split_head, "CHUNK_TOKENS", 4)
    with torch.no_grad(), LargestOf(model_zoo.VOCABULARY) as largest:
        read_logprobs(model, batch, found)
    assert largest.rows <= max(4, model_zoo.HIDDEN), "weights transposed for the product have HIDDEN rows"
    with torch.no_grad(), LargestOf(model_zoo.VOCABULARY) as largest:
        read_logprobs(model, batch, None)
    assert largest.rows >= 15, "3 rows, 5 last positions"


def test_chunks_cost_the_layerwise_engine_one_perturbed_head(batch, monkeypatch):
    """A module called more than twice an evaluation would make it give up."""
    monkeypatch.setattr(split_head, "CHUNK_TOKENS", 1)
    slopes = []
    for shortcuts in (False, True):
        model = model_zoo.opt().eval()
        objective = LMObjective.for_model(model) if shortcuts else LMObjective()
        optimizer = foretune.MeZO(model, lr=0.0, seed=3)
        optimizer.step(lambda model=model, objective=objective: objective.loss(model, batch))
        assert optimizer.engine.name == "layerwise"
        slopes.append(optimizer.last_record.scalars[0])
    assert slopes[0] == pytest.approx(slopes[1], rel=2e-3)
