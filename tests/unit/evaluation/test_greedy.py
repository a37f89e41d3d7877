from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import model_zoo
from foretune.adapters import peft_warnings_hidden
from foretune.errors import IncompatibleError, NonFiniteLossError
from foretune.evaluation.greedy import continue_greedily

FAMILIES = ["opt", "llama", "gpt2", "mistral", "qwen2"]
PROMPTS = [(7, 30, 12), (5, 9, 33, 21, 8, 17, 4), (38,), (11, 6, 29, 14, 25, 25, 31, 10, 4, 19), (22, 9, 16)]


def open_gpt():
    """A model without a cache of keys and values."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=4))


def bloom():
    """A model that takes no position ids: ALiBi, read off the mask."""
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=4))


def sharpened(model):
    """The model with large random weights: continuations vary from row to row, and logits are far from ties."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                std = 0.6 if parameter.ndim > 1 else 0.05
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
            else:  # the scale of a norm
                parameter.fill_(1.0)
    return model


def one_by_one(model, prompt, num_new):
    """The oracle: the whole row is read again for every token, alone, without mask, cache or positions."""
    model.eval()
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(num_new):
            tokens.append(int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def continuations(model, prompts=PROMPTS, num_new=8, **options):
    return continue_greedily(model, prompts, max_new_tokens=[num_new] * len(prompts), **options)


def check_against_oracle(model, oracle=one_by_one):
    expected = [oracle(model, prompt, 8) for prompt in PROMPTS]
    assert len({tuple(tokens) for tokens in expected}) > 2, "the rows should differ"
    for batch_size in (5, 2, 1):
        assert continuations(model, batch_size=batch_size) == expected
    # rows that end early leave the batch, the others go on as if they had been alone
    end = {expected[1][2], expected[3][4]}
    shorter = [next((tokens[:k] for k, token in enumerate(tokens) if token in end), tokens) for tokens in expected]
    assert len({len(tokens) for tokens in shorter}) > 1
    assert continuations(model, end_ids=end) == shorter
    rooms = [3, 1, 8, 2, 5]
    assert continue_greedily(model, PROMPTS, max_new_tokens=rooms) == [
        tokens[:room] for tokens, room in zip(expected, rooms, strict=True)
    ]


@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        pair
        for pair in product(FAMILIES, (None, "lora", "prefix", "prompt"))
        # a window of 4 is shorter than prefix and texts: refused, see below; peft's LoRA warns of GPT-2's Conv1D
        if pair not in (("mistral", "prefix"), ("gpt2", "lora"))
    ],
)
def test_batches_equal_one_row_at_a_time(family, adapter):
    base = getattr(model_zoo, family)
    model = sharpened(base() if adapter is None else model_zoo.with_adapter(base, adapter))
    check_against_oracle(model)


@pytest.mark.parametrize("build", [open_gpt, bloom])
def test_models_without_cache_or_position_ids(build):
    def oracle(model, prompt, num_new):
        model.eval()
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(num_new):
                tokens = torch.cat((tokens, model(input_ids=tokens).logits[:, -1:].argmax(-1)), dim=1)
        return tokens[0, len(prompt) :].tolist()

    check_against_oracle(sharpened(build()), oracle)


def test_prefix_out_of_sight_behind_padding_is_refused():
    model = model_zoo.with_adapter(model_zoo.mistral, "prefix")
    with pytest.raises(IncompatibleError, match="sliding window of 4"):
        continuations(model)
    alike = [(5, 6), (7, 8)]  # nothing is padded
    assert continuations(model, alike) == [one_by_one(model, prompt, 8) for prompt in alike]


def test_unknown_virtual_tokens_are_refused():
    from peft import CPTConfig, get_peft_model

    with peft_warnings_hidden():
        config = CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[4, 5], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 1])
        model = get_peft_model(model_zoo.llama(), config)
    with pytest.raises(IncompatibleError, match="Text cannot be generated with peft's CPT; tune with LoRA"):
        continuations(model)


def test_virtual_tokens_that_are_switched_off_do_not_count():
    model = sharpened(model_zoo.with_adapter(model_zoo.llama, "prompt"))
    with model.disable_adapter():
        assert continuations(model) == [one_by_one(model.get_base_model(), prompt, 8) for prompt in PROMPTS]


def test_is_complete_ends_a_row_after_the_token_it_is_told_last():
    model = sharpened(model_zoo.llama())
    told = []

    def is_complete(token_ids):
        told.append(tuple(token_ids))
        return len(token_ids) == 3

    assert continuations(model, is_complete=is_complete) == [one_by_one(model, prompt, 3) for prompt in PROMPTS]
    assert len(told) == 3 * len(PROMPTS)


def test_settings_of_the_checkpoint_are_not_inherited():
    model = sharpened(model_zoo.llama())
    expected = continuations(model)
    model.generation_config.update(
        do_sample=True, repetition_penalty=9.0, max_new_tokens=2, eos_token_id=list(range(40))
    )
    model.config.use_cache = False
    assert continuations(model) == expected


def test_mode_and_random_state_are_left_alone():
    model = sharpened(model_zoo.opt())  # with dropout
    expected = [one_by_one(model, prompt, 8) for prompt in PROMPTS]
    state = torch.get_rng_state()
    for was_training in (True, False):
        model.train(was_training)
        assert continuations(model) == expected
        assert model.training is was_training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_name_the_prompt(value):
    class Bigram(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.eye(6))

        def forward(self, input_ids, attention_mask=None):
            return type("Output", (), {"logits": self.table[input_ids]})()

    model = Bigram().train()
    assert continue_greedily(model, [(1, 2), (3,)], max_new_tokens=[2, 3]) == [[2, 2], [3, 3, 3]]
    with torch.no_grad():
        model.table[4, 1] = value
    with pytest.raises(NonFiniteLossError, match="logits of generation prompt 2 are nan or infinite"):
        continue_greedily(model, [(1, 2), (3,), (2, 4), (1,)], max_new_tokens=[2] * 4, batch_size=2)
    assert model.training
