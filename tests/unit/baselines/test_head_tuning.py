from __future__ import annotations

import pytest
import torch

import model_zoo
from foretune.baselines import HeadTuning
from foretune.errors import NonFiniteLossError
from foretune.objectives import ClassificationObjective


def objective_of(model):
    return ClassificationObjective()


def test_only_the_head_moves_and_the_input_embedding_keeps_its_bits(separable_rows):
    model = model_zoo.opt()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embedding = model.get_input_embeddings().weight
    report = HeadTuning(lr=0.1, steps=100).fit(model, separable_rows(), objective_of)
    after = model.state_dict()
    assert torch.equal(embedding, before["model.decoder.embed_tokens.weight"])
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["lm_head.weight"]
    assert report["last_loss"] < 0.5 * report["first_loss"]
    assert not model.training


def test_a_step_is_adam_s(separable_rows):
    """The first step of Adam moves every entry that has a gradient by lr, and the last lr is lr / steps."""
    model = model_zoo.llama()
    head = model.get_output_embeddings().weight.detach().clone()
    rows = separable_rows(8)
    HeadTuning(lr=1e-3, steps=1).fit(model, rows, objective_of)
    moved = (model.get_output_embeddings().weight - head)[[30, 31]].abs()
    assert torch.allclose(moved, torch.full_like(moved, 1e-3), rtol=1e-2)


def test_five_passes_are_the_default_and_the_order_is_the_seed_s(separable_rows):
    heads = []
    for seed in (0, 0, 1):
        model = model_zoo.opt()
        report = HeadTuning(seed=seed).fit(model, separable_rows(20), objective_of)
        assert report["steps"] == 15
        heads.append(model.get_output_embeddings().weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_pass_sees_every_row_once(separable_rows):
    seen = []

    class Spy(ClassificationObjective):
        def collate(self, rows):
            seen.append([row.name for row in rows])
            return super().collate(rows)

    HeadTuning(steps=6).fit(model_zoo.opt(), separable_rows(20), lambda model: Spy())
    assert [len(batch) for batch in seen] == [8, 8, 4] * 2
    passes = [[name for batch in part for name in batch] for part in (seen[:3], seen[3:])]
    assert all(len(set(names)) == 20 for names in passes)
    assert passes[0] != passes[1]


def test_a_loss_that_is_not_finite_ends_the_run(separable_rows):
    model = model_zoo.opt()
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"Loss is nan at step 1: lower --lr \(0.0001\)"):
        HeadTuning(steps=3).fit(model, separable_rows(words=(30, 31, 32)), objective_of)
