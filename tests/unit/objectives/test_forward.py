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


@peft_reads_a_deprecated_name
@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_peft_wrappers_take_the_base_models_arguments(padded, kind):
    import peft

    config = (
        peft.LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules=["q_proj"])
        if kind == "lora"
        else peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    model = peft.get_peft_model(small_opt(), config).eval()
    with torch.inference_mode():
        logits = last_logits(model, padded, 1)
        assert logits.shape == (2, 1, 40)
        for index, length in enumerate((5, 3)):  # each row alone, without padding
            alone = {"input_ids": padded["input_ids"][index : index + 1, -length:]}
            torch.testing.assert_close(logits[index : index + 1], last_logits(model, alone, 1), atol=1e-5, rtol=0)


@peft_reads_a_deprecated_name
def test_prompt_tuning_refuses_padding_and_takes_single_rows(padded):
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = peft.get_peft_model(small_opt(), config).eval()
    with pytest.raises(IncompatibleError, match="drops position ids"):
        last_logits(model, padded, 1)
    with torch.inference_mode():
        assert last_logits(model, {"input_ids": padded["input_ids"][:1]}, 1).shape == (1, 1, 40)
