"""The head at the mask alone is taken apart only where its logits are the model's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foretune
import masked_models
from foretune import noise
from foretune.adapters import LoRATuning
from foretune.objectives.masked import MaskedObjective
from foretune.objectives.masked_encoding import EncodedMaskedExample
from foretune.objectives.masked_head import find_masked_head, mask_logits


@pytest.fixture
def batch():
    ids = [(0, 9, 11, 4, 8, 2), (0, 4, 17, 2), (0, 30, 31, 32, 4, 2)]
    rows = [
        EncodedMaskedExample(tokens, tokens.index(4), (20, 21, 22), (i % 3,), "row") for i, tokens in enumerate(ids)
    ]
    return MaskedObjective().collate(rows)


@pytest.mark.parametrize(
    ("build", "looks_up"),
    [
        (masked_models.roberta, True),
        (masked_models.bert, True),
        (lambda: masked_models.roberta(tie_word_embeddings=False), False),
        (masked_models.distilbert, False),
    ],
)
def test_heads_by_structure(build, looks_up, batch):
    model = build()
    head = find_masked_head(model)
    assert head is not None
    assert (head.lookup is not None) == looks_up
    with torch.no_grad():
        torch.testing.assert_close(head.logits(batch), mask_logits(model, batch), rtol=1e-5, atol=1e-5)


def test_the_model_is_left_as_it_was(batch):
    model = masked_models.roberta().train()
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    head = find_masked_head(model)
    with torch.no_grad():
        head.logits(batch)
        with pytest.raises(IndexError):
            head.logits({**batch, "input_ids": torch.full((3, 6), 10**6)})
    assert model.training
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert not model.roberta._forward_hooks
    assert model(input_ids=batch["input_ids"]).logits.shape == (3, 6, 500)


def test_logits_that_are_changed_behind_the_head_are_found_by_comparison():
    model = masked_models.roberta()
    decode = model.lm_head.decoder.forward
    model.lm_head.decoder.forward = lambda features: decode(features) * 1.01
    assert find_masked_head(model).lookup is None


def test_other_models_are_left_alone():
    assert find_masked_head(nn.Linear(2, 2)) is None


def test_a_head_that_looks_at_other_positions_is_not_taken_apart():
    model = masked_models.roberta()
    head = model.lm_head.forward
    model.lm_head.forward = lambda features: head(features - features.mean(1, keepdim=True))
    assert find_masked_head(model) is None


def test_gradients_are_those_of_the_whole_head(batch):
    gradients = []
    for split in (False, True):
        model = masked_models.roberta()
        MaskedObjective(find_masked_head(model) if split else None).loss(model, batch).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-4, atol=1e-6)


def test_an_adapter_is_in_force(batch):
    model = LoRATuning().attach(masked_models.roberta(), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
        head = find_masked_head(model)
        assert head.lookup is not None
        torch.testing.assert_close(head.logits(batch), mask_logits(model, batch), rtol=1e-5, atol=1e-5)
        with model.disable_adapter():
            without = mask_logits(model, batch)
        assert (head.logits(batch) - without).abs().max() > 1e-3


def _recording(add, written):
    def recorded(out, base, **options):
        written.append((out.shape, options["rows"]))
        return add(out, base, **options)

    return recorded


@pytest.mark.parametrize("build", [masked_models.roberta, masked_models.bert])
def test_both_ways_measure_the_same_slope_and_only_rows_of_the_table_are_perturbed(build, batch, monkeypatch):
    """The layerwise engine serves it, and the table is never written as a whole while losses are measured."""
    slopes, whole_table = [], []
    for split in (False, True):
        model = build()
        objective = MaskedObjective(find_masked_head(model) if split else None)
        optimizer = foretune.MeZO(model, lr=0.0, seed=3)
        written: list = []
        monkeypatch.setattr(noise, "add", _recording(noise.add, written))
        optimizer.step(lambda model=model, objective=objective: objective.loss(model, batch))
        monkeypatch.undo()
        assert optimizer.engine.name == "layerwise"
        slopes.append(optimizer.last_record.scalars[0])
        whole_table.append(any(shape == (500, 16) and rows is None for shape, rows in written))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)
    assert whole_table == [True, False]


def test_engines_agree(batch):
    slopes = []
    for engine in ("layerwise", "in_place"):
        model = masked_models.roberta()
        objective = MaskedObjective(find_masked_head(model))
        optimizer = foretune.MeZO(model, lr=0.0, seed=3, engine=engine)
        optimizer.step(lambda model=model, objective=objective: objective.loss(model, batch))
        slopes.append(optimizer.last_record.scalars[0])
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-3)
