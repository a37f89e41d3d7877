"""Options that share a context score as they do alone, or they do not share one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foretune
import model_zoo
import oracles
from foretune.errors import IncompatibleError
from foretune.objectives import ClassificationObjective, EncodedExample, find_packed_length
from foretune.objectives.forward import model_inputs

peft_reads_a_deprecated_name = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def wide_mistral():
    return model_zoo.mistral(sliding_window=24)


PACKING = {
    "opt": (model_zoo.opt, 32),
    "llama": (model_zoo.llama, 32),
    "qwen2": (model_zoo.qwen2, 32),
    "qwen3": (model_zoo.qwen3, 32),
    "gpt2": (model_zoo.gpt2, 32),
    "gemma": (model_zoo.gemma, 32),
    "gemma2": (model_zoo.gemma2, 16),
    "mixtral": (model_zoo.mixtral, 32),
    "mistral, wide window": (wide_mistral, 24),
    "mistral, window shorter than the probe": (model_zoo.mistral, 0),
    "opt_lora": (lambda: model_zoo.with_adapter(model_zoo.opt, "lora"), 32),
    "llama_lora": (lambda: model_zoo.with_adapter(model_zoo.llama, "lora"), 32),
}


def examples():
    """Rows of ragged contexts, and of ragged options in number and length, one of them cut on the left."""
    generator = torch.Generator().manual_seed(4)

    def draw(count):
        return tuple(torch.randint(4, model_zoo.VOCABULARY, (count,), generator=generator).tolist())

    rows = []
    for length, options in ((8, (3, 1, 2)), (3, (2, 2, 4, 1)), (6, (3, 3))):
        context = (0, *draw(length))
        rows.append(EncodedExample(tuple((*context, *draw(n)) for n in options), options, (len(options) - 1,), "row"))
    long = (*(0, 5, 6, 7), *draw(5))
    cut = ((*long, *draw(2)), (0, *long[2:], *draw(3)), (*long, *draw(3)))
    return [*rows, EncodedExample(cut, (2, 3, 3), (1,), "cut row")]


@torch.no_grad()
def oracle(model, rows):
    return [
        [
            float(oracles.option_logprobs(model, ids, length).mean())
            for ids, length in zip(row.token_ids, row.option_lengths, strict=True)
        ]
        for row in rows
    ]


def assert_scores(scores, expected):
    for of_row, of_oracle in zip(scores.tolist(), expected, strict=True):
        assert of_row[: len(of_oracle)] == pytest.approx(of_oracle, abs=1e-5)
        assert of_row[len(of_oracle) :] == [-torch.inf] * (len(of_row) - len(of_oracle))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKING)
def test_packed_options_score_as_each_alone(name, attention):
    build, longest = PACKING[name]
    model = build().eval()
    if name != "gemma2":  # it caps attention scores, which sdpa cannot
        model.set_attn_implementation(attention)
    objective = ClassificationObjective.for_model(model)
    assert find_packed_length(model) == longest
    rows = examples()
    batch = objective.collate(rows)
    assert ("segments" in batch) == (longest > 8)
    with torch.no_grad():
        assert_scores(objective.score(model, batch), oracle(model, rows))


@pytest.mark.parametrize(
    "build",
    [
        model_zoo.bloom,
        model_zoo.mamba,
        model_zoo.roberta,
        lambda: nn.Linear(2, 2),
        lambda: torch.compile(model_zoo.opt()),
    ],
)
def test_other_models_are_not_packed(build):
    assert find_packed_length(build()) == 0


@pytest.mark.parametrize("build", [model_zoo.bloom, model_zoo.mamba])
def test_models_that_do_not_pack_score_the_same(build):
    model = build().eval()
    objective = ClassificationObjective.for_model(model)
    rows = [row for row in examples() if len(set(map(len, row.token_ids))) == 1]  # mamba sees padding
    batch = objective.collate(rows)
    assert "segments" not in batch
    with torch.no_grad():
        assert_scores(objective.score(model, batch), oracle(model, rows))


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("base", [model_zoo.opt, model_zoo.llama])
def test_virtual_tokens_are_not_packed_and_score_the_same(base, kind):
    model = model_zoo.with_adapter(base, kind).eval()
    objective = ClassificationObjective.for_model(model)
    rows = examples()
    batch = objective.collate(rows)
    assert "segments" not in batch
    with torch.no_grad():
        assert_scores(objective.score(model, batch), oracle(model, rows))
        packed = ClassificationObjective(packed_length=32)
        with pytest.raises(IncompatibleError, match=r"cannot see the virtual tokens"):
            packed.score(model, packed.collate(rows))


def test_a_model_that_ignores_the_mask_is_found_by_comparison():
    model = model_zoo.opt().eval()
    forward = model.forward
    model.forward = lambda input_ids, attention_mask=None, position_ids=None, **others: forward(
        input_ids, position_ids=position_ids, **others
    )
    assert find_packed_length(model) == 0


def test_options_that_cannot_be_told_apart_by_sight_are_not_packed():
    """All-zero heads agree in every layout: the comparison tells nothing."""
    model = model_zoo.llama()
    nn.init.zeros_(model.lm_head.weight)
    assert find_packed_length(model) == 0


def test_half_precision_models_are_compared_in_their_own_precision():
    assert find_packed_length(model_zoo.llama().bfloat16()) == 32


def test_attention_that_takes_no_such_masks_is_refused():
    model = model_zoo.llama().eval()
    objective = ClassificationObjective(packed_length=32)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(IncompatibleError, match=r"attention 'flash_attention_2' takes no mask of pairs of tokens"):
        model_inputs(model, objective.collate(examples()))


@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama])
def test_gradients_are_those_of_separate_sequences(build):
    model = build().eval()
    gradients = []
    for objective in (ClassificationObjective(), ClassificationObjective.for_model(model)):
        loss = objective.loss(model, objective.collate(examples()))
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for separate, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama])
def test_the_layerwise_engine_measures_the_same_slope(build):
    slopes = []
    for shortcuts in (False, True):
        model = build().eval()
        objective = ClassificationObjective.for_model(model) if shortcuts else ClassificationObjective()
        batch = objective.collate(examples())
        optimizer = foretune.MeZO(model, lr=0.0, seed=3)
        optimizer.step(lambda model=model, objective=objective, batch=batch: objective.loss(model, batch))
        assert optimizer.engine.name == "layerwise"
        slopes.append(optimizer.last_record.scalars[0])
    assert slopes[0] == pytest.approx(slopes[1], rel=2e-3)
