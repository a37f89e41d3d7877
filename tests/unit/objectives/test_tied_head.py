"""Logits by looking candidates up in the table equal the model's own, or the head is not taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foretune
from foretune.errors import UsageError
from foretune.objectives import ClassificationObjective, EncodedExample, collate_candidates, find_tied_head


def _opt(**changes):
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    settings = {"vocab_size": 40, "hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "ffn_dim": 32}
    return OPTForCausalLM(
        OPTConfig(**{**settings, "num_attention_heads": 2, "max_position_embeddings": 32, **changes})
    ).eval()


def _qwen2(**changes):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    settings = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return Qwen2ForCausalLM(
        Qwen2Config(**{**settings, "num_attention_heads": 2, "num_key_value_heads": 1, **changes})
    ).eval()


def _gemma2(**changes):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    settings = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    return Gemma2ForCausalLM(
        Gemma2Config(**{**settings, "num_attention_heads": 2, "num_key_value_heads": 1, **changes})
    ).eval()


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)).eval()


@pytest.fixture
def batch():
    prompts = [(2, 5, 6, 7, 8), (2, 9, 10), (2, 11, 12, 13)]
    rows = [EncodedExample(((*p, 20), (*p, 21), (*p, 22)), (1, 1, 1), (i % 3,), "row") for i, p in enumerate(prompts)]
    return collate_candidates(rows)


@pytest.mark.parametrize(
    "build", [_opt, lambda: _opt(word_embed_proj_dim=8), lambda: _qwen2(tie_word_embeddings=True), _gpt2]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_is_that_of_the_whole_head(build, dtype, batch):
    model = build().to(dtype)
    head = find_tied_head(model)
    assert head is not None
    with torch.no_grad():
        whole, rows = (ClassificationObjective(tied).loss(model, batch) for tied in (None, head))
    torch.testing.assert_close(rows, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: _qwen2(tie_word_embeddings=False),
        _gemma2,  # scaled embeddings
        lambda: nn.Linear(2, 2),
    ],
)
def test_other_heads_are_left_to_the_model(build):
    assert find_tied_head(build()) is None


def test_logits_that_are_changed_behind_the_head_are_found_by_comparison():
    model = _opt()
    forward = model.lm_head.forward
    model.lm_head.forward = lambda hidden: forward(hidden) * 1.01
    assert find_tied_head(model) is None


def test_half_precision_tables_are_compared_in_their_own_precision():
    assert find_tied_head(_opt().bfloat16()) is not None


def test_the_tied_head_of_another_model_is_refused(batch):
    """It would evaluate that model, whatever becomes of this one."""
    objective = ClassificationObjective(find_tied_head(_opt()))
    with pytest.raises(UsageError, match="tied head of another model"):
        objective.loss(_opt(), batch)


def _recording(add, written):
    def recorded(out, base, **options):
        written.append((out.shape, options["rows"]))
        return add(out, base, **options)

    return recorded


def test_both_ways_measure_the_same_slope_and_only_rows_of_the_table_are_perturbed(batch, monkeypatch):
    """The layerwise engine serves it, and the table is never written as a whole while losses are measured."""
    from foretune import noise

    slopes, whole_table = [], []
    for tied in (False, True):
        model = _opt()
        objective = ClassificationObjective(find_tied_head(model) if tied else None)
        optimizer = foretune.MeZO(model, lr=0.0, seed=3)
        written: list = []
        monkeypatch.setattr(noise, "add", _recording(noise.add, written))
        optimizer.step(lambda model=model, objective=objective: objective.loss(model, batch))
        monkeypatch.undo()
        assert optimizer.engine.name == "layerwise"
        slopes.append(optimizer.last_record.scalars[0])
        whole_table.append(any(shape == (40, 16) and rows is None for shape, rows in written))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)
    assert whole_table == [True, False]
