from __future__ import annotations

import pytest
import torch
from torch import nn

from foretune.errors import IncompatibleError
from foretune.objectives import EncodedExample, collate_candidates
from foretune.objectives.forward import last_logits

peft_reads_a_deprecated_name = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture
def padded():
    rows = [EncodedExample(((2, *range(3, 3 + length), 9),), (1,), (0,), "row") for length in (4, 2)]
    return collate_candidates(rows)


def small_opt():
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    return OPTForCausalLM(config).eval()


def small_llama():
    """Rotary positions, and fewer heads of keys and values than of queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


class Spy(nn.Module):
    """Records what its forward is given; takes no more than a subclass declares."""

    def record(self, **given):
        self.given = given
        return type("Output", (), {"logits": torch.arange(2 * 5 * 3.0).view(2, 5, 3)})()


class TakesAll(Spy):
    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=None, logits_to_keep=0):
        return self.record(
            attention_mask=attention_mask, position_ids=position_ids, use_cache=use_cache, keep=logits_to_keep
        )


class TakesLittle(Spy):
    def forward(self, input_ids, attention_mask=None):
        return self.record(attention_mask=attention_mask)


def test_everything_the_forward_accepts_is_passed(padded):
    model = TakesAll()
    last_logits(model, padded, 2)
    assert model.given["attention_mask"] is padded["attention_mask"]
    assert model.given["position_ids"] is padded["position_ids"]
    assert (model.given["use_cache"], model.given["keep"]) == (False, 2)


def test_nothing_else_is_passed_and_the_logits_are_cut(padded):
    model = TakesLittle()
    logits = last_logits(model, padded, 2)
    assert list(model.given) == ["attention_mask"]
    assert logits.tolist() == torch.arange(2 * 5 * 3.0).view(2, 5, 3)[:, -2:].tolist()


def test_compiled_wrapper_is_looked_through(padded):
    model = TakesAll()
    compiled = torch.compile(model, backend="eager", disable=True)
    last_logits(compiled, padded, 1)
    assert model.given["keep"] == 1


def adapter_config(kind):
    import peft

    settings = {"task_type": "CAUSAL_LM"}
    if kind == "lora":
        return peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"], **settings)
    virtual = {
        "prefix": peft.PrefixTuningConfig,
        "prompt": peft.PromptTuningConfig,
        "p_tuning": peft.PromptEncoderConfig,
        "multitask": peft.MultitaskPromptTuningConfig,
    }
    return virtual[kind](num_virtual_tokens=3, **settings)


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("build", [small_opt, small_llama])
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt", "p_tuning"])
def test_a_padded_batch_is_its_rows_one_by_one(padded, build, kind):
    import peft

    model = peft.get_peft_model(build(), adapter_config(kind)).eval()
    with torch.inference_mode():
        logits = last_logits(model, padded, 1)
        assert logits.shape == (2, 1, 40)
        for index, length in enumerate((5, 3)):  # each row alone, without padding
            alone = {"input_ids": padded["input_ids"][index : index + 1, -length:]}
            torch.testing.assert_close(logits[index : index + 1], last_logits(model, alone, 1), atol=1e-5, rtol=0)


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("build", [small_opt, small_llama])
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_without_padding_are_those_of_pefts_own_forward(build, kind):
    import peft

    model = peft.get_peft_model(build(), adapter_config(kind)).eval()
    input_ids = torch.tensor([[2, 7, 9, 11], [2, 4, 4, 30]])
    with torch.inference_mode():
        ours, theirs = last_logits(model, {"input_ids": input_ids}, 2), model(input_ids=input_ids).logits[:, -2:]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_a_disabled_adapter_leaves_the_base_model(padded, kind):
    import peft

    base = small_llama()
    with torch.inference_mode():
        expected = last_logits(base, padded, 1)  # torch takes other kernels for frozen weights
        model = peft.get_peft_model(base, adapter_config(kind)).eval()
        assert (last_logits(model, padded, 1) - expected).abs().max() > 1e-3
        with model.disable_adapter():
            torch.testing.assert_close(last_logits(model, padded, 1), expected, atol=1e-6, rtol=0)


@peft_reads_a_deprecated_name
@pytest.mark.parametrize(("window", "fits"), [(8, True), (7, False)])
def test_a_prefix_refuses_padding_that_would_use_up_a_sliding_window(padded, window, fits):
    """Three virtual tokens and five of text; rows of one length may be longer than the window."""
    import peft
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window,
    )  # fmt: skip
    model = peft.get_peft_model(MistralForCausalLM(config), adapter_config("prefix")).eval()
    with torch.inference_mode():
        last_logits(model, {"input_ids": padded["input_ids"]}, 1)
        if fits:
            alone = last_logits(model, {"input_ids": padded["input_ids"][1:, 2:]}, 1)
            torch.testing.assert_close(last_logits(model, padded, 1)[1:], alone, atol=1e-5, rtol=0)
        else:
            with pytest.raises(
                IncompatibleError, match=r"prefix of 3 and texts of up to 5 .* window of 7.*--max-length 4"
            ):
                last_logits(model, padded, 1)


@peft_reads_a_deprecated_name
def test_other_prompt_learning_refuses_padding(padded):
    import peft

    model = peft.get_peft_model(small_opt(), adapter_config("multitask")).eval()
    with pytest.raises(IncompatibleError, match="MULTITASK_PROMPT_TUNING drops position ids"):
        last_logits(model, padded, 1)
