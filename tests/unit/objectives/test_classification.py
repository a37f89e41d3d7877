from __future__ import annotations

import copy

import pytest
import torch

import oracles
from foretune.data import load_task_data
from foretune.objectives import ClassificationObjective, encode_examples, usable_length
from foretune.tasks import Example

ARCHITECTURES = ["opt", "llama", "qwen2", "mistral", "gpt2"]
OBJECTIVE = ClassificationObjective()

SINGLE = (" terrible", " great")
MULTI = (" quite terrible", " rather wonderful and odd", " ok")
PROMPTS = [
    "a quiet film that earns its tears It was",
    "the jokes land about half the time . It was",
    "bad It was",
]


def examples(candidates_of_rows):
    return [
        Example(prompt=prompt, candidates=candidates, correct=(len(candidates) - 1,))
        for prompt, candidates in zip(PROMPTS, candidates_of_rows, strict=True)
    ]


CASES = {
    "single token": examples([SINGLE, SINGLE, SINGLE]),
    "single token, ragged": examples([SINGLE, (" bad", *SINGLE), (" good",)]),
    "several tokens": examples([MULTI, MULTI, MULTI]),
    "several tokens, ragged": examples([MULTI, SINGLE, (" a bit slow",)]),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    return random_model(request.param)


def random_model(architecture):
    """A small model with weights large enough that positions, masks and candidates matter."""
    import transformers

    torch.manual_seed(0)
    if architecture == "opt":
        config = transformers.OPTConfig(
            vocab_size=400, hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4,
            max_position_embeddings=64, word_embed_proj_dim=32, init_std=0.3,
        )  # fmt: skip
    elif architecture == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
        )
    else:
        config_class = {
            "llama": transformers.LlamaConfig,
            "qwen2": transformers.Qwen2Config,
            "mistral": transformers.MistralConfig,
        }[architecture]
        config = config_class(
            vocab_size=400, hidden_size=32, num_hidden_layers=2, intermediate_size=64, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3,
        )  # fmt: skip
        if architecture == "mistral":
            config.sliding_window = 8  # shorter than the prompts
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def oracle(model, tokenizer, rows):
    scores = [oracles.candidate_scores(model, tokenizer, row.prompt, row.candidates) for row in rows]
    losses = [oracles.cross_entropy(of_row, row.correct[0]) for of_row, row in zip(scores, rows, strict=True)]
    return scores, sum(losses) / len(losses)


@pytest.mark.parametrize("case", CASES)
def test_score_and_loss_equal_the_straightforward_way(model, tiny_tokenizer, case):
    rows = CASES[case]
    batch = OBJECTIVE.collate(encode_examples(rows, tiny_tokenizer))
    assert ("candidate_ids" in batch) == case.startswith("single")
    expected_scores, expected_loss = oracle(model, tiny_tokenizer, rows)
    with torch.inference_mode():
        scores, loss = OBJECTIVE.score(model, batch), OBJECTIVE.loss(model, batch)
    assert (scores.dtype, loss.dtype, loss.shape) == (torch.float32, torch.float32, ())
    for of_row, expected in zip(scores.tolist(), expected_scores, strict=True):
        assert of_row[: len(expected)] == pytest.approx(expected, abs=1e-5)
        assert of_row[len(expected) :] == [-torch.inf] * (len(of_row) - len(expected))
    assert float(loss) == pytest.approx(expected_loss, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_combine_by_weight_and_repeats_give_the_same_bits(tiny_tokenizer, case):
    model = random_model("opt")
    rows = encode_examples(CASES[case], tiny_tokenizer)
    whole, parts = OBJECTIVE.collate(rows), [OBJECTIVE.collate(rows[:2]), OBJECTIVE.collate(rows[2:])]
    assert [OBJECTIVE.weight(batch) for batch in (whole, *parts)] == [3, 2, 1]
    with torch.inference_mode():
        combined = sum(OBJECTIVE.weight(part) * OBJECTIVE.loss(model, part) for part in parts) / 3
        before = copy.deepcopy(whole)
        loss = OBJECTIVE.loss(model, whole)
        assert torch.equal(loss, OBJECTIVE.loss(model, whole))
    torch.testing.assert_close(combined, loss, atol=1e-5, rtol=0)
    assert all(torch.equal(before[key], whole[key]) for key in whole)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_the_loss_is_that_of_its_definition(tiny_tokenizer, case):
    """The shared layout drops the vocabulary's normaliser; that must not change the slope either."""
    model = random_model("opt")
    batch = OBJECTIVE.collate(encode_examples(CASES[case], tiny_tokenizer))
    weights = model.get_input_embeddings().weight
    (fast,) = torch.autograd.grad(OBJECTIVE.loss(model, batch), weights)
    by_definition = OBJECTIVE.loss_of_scores(OBJECTIVE.score(model, batch), batch["labels"])
    (slow,) = torch.autograd.grad(by_definition, weights)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    assert fast.abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_half_precision_model_is_scored_in_float32(tiny_tokenizer, case):
    model = random_model("opt").to(torch.bfloat16)
    batch = OBJECTIVE.collate(encode_examples(CASES[case], tiny_tokenizer))
    with torch.inference_mode():
        scores, loss = OBJECTIVE.score(model, batch), OBJECTIVE.loss(model, batch)
    assert (scores.dtype, loss.dtype) == (torch.float32, torch.float32)
    assert float(loss) == pytest.approx(float(OBJECTIVE.loss_of_scores(scores, batch["labels"])), abs=1e-5)
    present = scores[scores.isfinite()]
    assert len(set(present.tolist())) == len(present), "no ties"
    assert not torch.equal(present, present.bfloat16().float())


def test_real_rows_on_a_real_model(real_data_dir, opt_mini_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(opt_mini_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(opt_mini_dir)
    data = load_task_data("sst2", real_data_dir, num_eval=6)
    rows = list(data.examples(data.evaluation))
    long_options = [
        Example(prompt=row.prompt, candidates=(" a great film", " simply terrible", " bad"), correct=(0,))
        for row in rows
    ]
    for of_one_kind in (rows, long_options):
        encoded = encode_examples(of_one_kind, tokenizer, usable_length(model))
        expected_scores, expected_loss = oracle(model, tokenizer, of_one_kind)
        for objective in (OBJECTIVE, ClassificationObjective.for_model(model)):
            batch = objective.collate(encoded)
            assert ("candidate_ids" in batch) == (of_one_kind is rows)
            assert ("segments" in batch) == (of_one_kind is long_options and objective is not OBJECTIVE)
            with torch.inference_mode():
                scores, loss = objective.score(model, batch), objective.loss(model, batch)
            torch.testing.assert_close(scores, torch.tensor(expected_scores), atol=1e-5, rtol=0)
            assert float(loss) == pytest.approx(expected_loss, abs=1e-5)
