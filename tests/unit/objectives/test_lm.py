from __future__ import annotations

import pytest
import torch

import model_zoo
import oracles
from foretune.objectives import EncodedExample, LMObjective

peft_reads_a_deprecated_name = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)

ROWS = [
    EncodedExample(((0, 5, 9, 21, 4, 30), (0, 5, 9, 33, 12)), (3, 2), (1, 0), "row 0"),
    EncodedExample(((0, 7, 11, 4, 4, 8, 25, 39),), (5,), (0,), "row 1"),
    EncodedExample(((0, 6, 31),), (1,), (0,), "row 2"),
]
RIGHT = [((0, 5, 9, 33, 12), 2), ((0, 7, 11, 4, 4, 8, 25, 39), 5), ((0, 6, 31), 1)]

FAMILIES = {
    f.__name__: f
    for f in (
        *(model_zoo.opt, model_zoo.llama, model_zoo.mistral, model_zoo.qwen2, model_zoo.qwen3, model_zoo.gpt2),
        *(model_zoo.gemma, model_zoo.gemma2, model_zoo.bloom, model_zoo.mixtral),
    )
} | {
    f"{base.__name__}_{kind}": lambda base=base, kind=kind: model_zoo.with_adapter(base, kind)
    for base in (model_zoo.opt, model_zoo.llama)
    for kind in ("lora", "prefix", "prompt")
}


def oracle(model, *, only_option=True):
    """Token mean of -log p over the whole batch."""
    per_row = [oracles.option_logprobs(model, ids, length if only_option else len(ids) - 1) for ids, length in RIGHT]
    return -torch.cat(per_row).mean()


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("only_option", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_is_the_token_mean_of_the_right_options(name, only_option):
    model = FAMILIES[name]().eval()
    for objective in (
        LMObjective.for_model(model, only_train_option=only_option),
        LMObjective(only_train_option=only_option),
    ):
        batch = objective.collate(ROWS)
        with torch.no_grad():
            loss = objective.loss(model, batch)
            expected = oracle(model, only_option=only_option)
        assert (loss.dtype, loss.shape) == (torch.float32, ())
        assert float(loss) == pytest.approx(float(expected), abs=1e-5)
        assert objective.weight(batch) == (8 if only_option else 13)


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("name", ["opt", "llama", "gemma2", "opt_lora", "opt_prefix", "llama_prompt"])
def test_gradients_are_those_of_the_straightforward_way(name):
    model = FAMILIES[name]().eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    objective = LMObjective.for_model(model)
    ours = torch.autograd.grad(objective.loss(model, objective.collate(ROWS)), trained)
    theirs = torch.autograd.grad(oracle(model), trained)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_micro_batches_combine_by_their_tokens_and_repeats_give_the_same_bits():
    model = model_zoo.llama().eval()
    objective = LMObjective.for_model(model)
    whole, parts = objective.collate(ROWS), [objective.collate(ROWS[:2]), objective.collate(ROWS[2:])]
    with torch.no_grad():
        combined = sum(objective.weight(part) * objective.loss(model, part) for part in parts) / objective.weight(whole)
        loss = objective.loss(model, whole)
        assert torch.equal(loss, objective.loss(model, whole))
    torch.testing.assert_close(combined, loss, atol=1e-5, rtol=0)


def test_half_precision_models_have_a_float32_loss():
    model = model_zoo.opt().bfloat16().eval()
    objective = LMObjective.for_model(model)
    with torch.no_grad():
        loss = objective.loss(model, objective.collate(ROWS))
    assert loss.dtype == torch.float32
    assert not torch.equal(loss, loss.bfloat16().float())
