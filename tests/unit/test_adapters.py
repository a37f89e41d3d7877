"""Tuning schemes: where an adapter starts, what of it trains, and that nothing else decides its bits."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy

import foretune
import model_zoo
from foretune.adapters import (
    TUNINGS,
    LoRATuning,
    PrefixTuning,
    PromptTuning,
    find_query_value,
    make_tuning,
    peft_warnings_hidden,
    tuning_class,
)
from foretune.errors import IncompatibleError, UsageError
from foretune.objectives import ClassificationObjective, EncodedExample, collate_candidates, find_tied_head
from foretune.objectives.encoding import usable_length
from foretune.objectives.forward import last_logits

CAUSAL = [model_zoo.opt, model_zoo.llama, model_zoo.qwen2, model_zoo.mistral, model_zoo.gpt2]
SCHEMES = [LoRATuning(), PrefixTuning(), PrefixTuning(init="random"), PromptTuning(), PromptTuning(init="random")]
INPUT_IDS = torch.tensor([[4, 9, 17, 5, 30, 11], [2, 8, 8, 4, 4, 21]])


def name_of(value):
    return getattr(value, "__name__", None) or "-".join(map(str, value.describe().values()))


@pytest.fixture
def padded():
    prompts = [(2, 5, 6, 7, 8), (2, 9, 10), (2, 11, 12, 13)]
    rows = [EncodedExample(((*p, 20), (*p, 21)), (1, 1), (i % 2,), "row") for i, p in enumerate(prompts)]
    return collate_candidates(rows)


def embed_project_opt():
    """An OPT whose embeddings are narrower than its layers."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(0)
    sizes = model_zoo._sizes(ffn_dim=24, word_embed_proj_dim=8)
    return OPTForCausalLM(OPTConfig(**sizes)).eval()


def frozen(build):
    return build().eval().requires_grad_(False)


def trainables(model):
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


def random_tokens(tuned):
    """The ids whose embeddings the virtual tokens started from, found again in the table."""
    table = tuned.get_base_model().get_input_embeddings().weight
    virtual = tuned.prompt_encoder["default"].embedding.weight
    same = (virtual[:, None] == table).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    return same.int().argmax(dim=1).tolist()


# ---------------------------------------------------------------- LoRA


@pytest.mark.parametrize("build", CAUSAL)
def test_lora_output_at_init_is_the_base_models(build):
    """Bit for bit in float32: B is 0, and x + 0 is x."""
    model = frozen(build)
    with torch.no_grad():
        expected = model(input_ids=INPUT_IDS).logits
        tuned = LoRATuning().attach(model, seed=0).eval()
        assert torch.equal(tuned(input_ids=INPUT_IDS).logits, expected)


@pytest.mark.parametrize("build", CAUSAL)
def test_lora_merged_is_unmerged(build):
    tuned = LoRATuning(r=3).attach(frozen(build), seed=0).eval()
    for tensor in trainables(tuned).values():
        torch.nn.init.normal_(tensor, std=0.3)
    with torch.no_grad():
        unmerged = tuned(input_ids=INPUT_IDS).logits
        merged = tuned.merge_and_unload()(input_ids=INPUT_IDS).logits
    torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (model_zoo.opt, [(16, 16), (16, 16)]),
        (model_zoo.llama, [(16, 16), (16, 8)]),  # grouped queries: values are narrower
        (model_zoo.gpt2, [(16, 48)]),
        (model_zoo.roberta, [(16, 16), (16, 16)]),
    ],
)
def test_lora_trains_r_times_in_plus_out_of_each_projection(build, sizes):
    num_layers, r = 2, 3
    tuned = LoRATuning(r=r).attach(build(), seed=0)
    found = trainables(tuned)
    assert sum(tensor.numel() for tensor in found.values()) == num_layers * sum(r * (i + o) for i, o in sizes)
    assert all(".lora_A." in name or ".lora_B." in name for name in found)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_lora_starts_uniform_and_at_zero():
    found = trainables(LoRATuning(r=200).attach(model_zoo.opt(), seed=3))
    starts = [tensor for name, tensor in found.items() if "lora_A" in name]
    a = torch.cat([tensor.flatten() for tensor in starts])
    bound = 16**-0.5
    assert a.abs().max() < bound
    # the variance of a uniform law is bound^2 / 3; four standard errors of mean and variance of 12,800 numbers
    assert abs(a.mean()) < 4 * bound / (3 * len(a)) ** 0.5
    assert a.var().item() == pytest.approx(bound**2 / 3, rel=4 * (4 / 5 / len(a)) ** 0.5)
    assert not torch.equal(starts[0], starts[1])
    assert all((tensor == 0).all() for name, tensor in found.items() if "lora_B" in name)


def test_lora_scale_is_alpha_over_r():
    tuned = LoRATuning(r=4, alpha=2).attach(frozen(model_zoo.llama), seed=0).eval()
    layer = tuned.get_base_model().model.layers[0].self_attn.v_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer(x), x @ layer.base_layer.weight.T + 2 / 4 * (x @ update.T))


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (model_zoo.opt, ("q_proj", "v_proj")),
        (model_zoo.mixtral, ("q_proj", "v_proj")),
        (model_zoo.qwen2_moe, ("q_proj", "v_proj")),
        (model_zoo.roberta, ("query", "value")),
        (model_zoo.gpt2, ("c_attn",)),
    ],
)
def test_query_and_value_projections_are_found_by_structure(build, names):
    assert find_query_value(build()) == names


def test_lora_refuses_a_model_without_attention_by_name():
    with pytest.raises(IncompatibleError, match="no query and value projections in Stack"):
        find_query_value(model_zoo.Stack(1))


# ---------------------------------------------------------------- prefix


@pytest.mark.parametrize("build", CAUSAL)
def test_prefix_is_real_tokens_keys_and_values(build):
    """The continuation's logits are those of the concatenated text: keys keep their rotation, positions follow on."""
    model = frozen(build)
    seen = []
    with torch.no_grad():
        handle = model.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"]), with_kwargs=True)
        tuned = PrefixTuning().attach(model, seed=0).eval()
        handle.remove()
        (tokens,) = seen
        assert tokens.shape == (1, 5)
        whole = model(input_ids=torch.cat((tokens.expand(2, -1), INPUT_IDS), dim=1)).logits[:, 5:]
        torch.testing.assert_close(tuned(input_ids=INPUT_IDS, use_cache=False).logits, whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(last_logits(tuned, {"input_ids": INPUT_IDS}, 6), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("build", "width"), [(model_zoo.opt, 16), (model_zoo.llama, 8), (model_zoo.gpt2, 16)])
def test_prefix_trains_one_tensor_of_p_by_2_layers_kv(build, width):
    (tensor,) = trainables(PrefixTuning(num_virtual_tokens=3).attach(build(), seed=0)).values()
    assert tensor.shape == (3, 2 * 2 * width)
    assert tensor.dtype == torch.float32


def test_random_prefix_has_standard_deviation_002():
    (tensor,) = trainables(PrefixTuning(num_virtual_tokens=25, init="random").attach(model_zoo.opt(), seed=0)).values()
    assert tensor.std().item() == pytest.approx(0.02, rel=4 / (2 * tensor.numel()) ** 0.5)


def test_prefix_refuses_layers_of_different_shapes_by_name():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2)
    with pytest.raises(IncompatibleError, match="keys and values of one shape in every layer, which MambaForCausalLM"):
        PrefixTuning().attach(MambaForCausalLM(config), seed=0)


# ---------------------------------------------------------------- prompt


@pytest.mark.parametrize("build", [*CAUSAL, embed_project_opt])
def test_prompt_initial_loss_is_that_of_its_tokens_prepended(build, padded):
    """Also with rows of different lengths: virtual tokens stand left of the padding, which takes no positions."""
    model = frozen(build)
    tuned = PromptTuning().attach(model, seed=0).eval()
    tokens = random_tokens(tuned)
    with torch.no_grad():
        loss = ClassificationObjective().loss(tuned, padded)
        rows = []
        for index in range(3):
            real = padded["attention_mask"][index].bool()
            ids = torch.tensor([[*tokens, *padded["input_ids"][index][real].tolist()]])
            rows.append(model(input_ids=ids).logits[0, -1, padded["candidate_ids"][index]])
        expected = cross_entropy(torch.stack(rows), padded["labels"])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)


def test_prompt_trains_10_times_hidden():
    (tensor,) = trainables(PromptTuning().attach(model_zoo.llama(), seed=0)).values()
    assert tensor.shape == (10, 16)
    assert tensor.dtype == torch.float32


def test_random_prompt_has_the_scale_of_real_embeddings():
    (tensor,) = trainables(PromptTuning(num_virtual_tokens=25, init="random").attach(model_zoo.opt(), seed=0)).values()
    assert tensor.std().item() == pytest.approx(0.3, rel=8 / (2 * tensor.numel()) ** 0.5)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama], ids=name_of)
@pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
def test_an_adapter_is_a_function_of_base_settings_and_seed(build, scheme):
    def start(seed):
        return trainables(scheme.attach(build(), seed=seed))

    first = start(0)
    torch.manual_seed(99)
    before, num_threads = torch.get_rng_state(), torch.get_num_threads()
    again, other = start(0), start(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == num_threads
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
def test_the_number_of_threads_does_not_matter(scheme):
    starts = []
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 4):
            torch.set_num_threads(num_threads)
            starts.append(trainables(scheme.attach(model_zoo.llama(), seed=0)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


@pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_base_keeps_its_dtype_and_the_adapter_is_float32(scheme, dtype, padded):
    tuned = scheme.attach(model_zoo.llama().to(dtype), seed=0).eval()
    own = trainables(tuned)
    assert {tensor.dtype for tensor in own.values()} == {torch.float64 if dtype == torch.float64 else torch.float32}
    assert {tensor.dtype for name, tensor in tuned.named_parameters() if name not in own} == {dtype}
    with torch.no_grad():
        assert ClassificationObjective().loss(tuned, padded).isfinite()


@pytest.mark.parametrize("build", [model_zoo.opt, model_zoo.llama], ids=name_of)
@pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
def test_a_step_takes_the_layerwise_engine_and_moves_the_adapter_only(build, scheme, padded):
    """The audit finds every use of an adapter's tensors inside the modules that own them."""
    tuned = scheme.attach(build(), seed=0)
    before = {name: tensor.clone() for name, tensor in tuned.named_parameters()}
    own = set(trainables(tuned))
    objective = ClassificationObjective(find_tied_head(tuned))
    optimizer = foretune.MeZO(tuned, lr=1e-2, zo_eps=1e-2)
    optimizer.step(lambda: objective.loss(tuned, padded))
    assert optimizer.engine_name == "layerwise"
    assert optimizer.last_record.scalars[0] != 0
    assert {name for name, tensor in tuned.named_parameters() if not torch.equal(tensor, before[name])} == own


@pytest.mark.parametrize("scheme", [LoRATuning(), PrefixTuning(), PromptTuning()], ids=name_of)
def test_a_saved_adapter_loads_in_plain_peft(scheme, tmp_path, padded):
    from peft import AutoPeftModelForCausalLM
    from transformers import LlamaForCausalLM

    model_zoo.llama().save_pretrained(tmp_path / "base")
    tuned = scheme.attach(LlamaForCausalLM.from_pretrained(tmp_path / "base"), seed=0).eval()
    for tensor in trainables(tuned).values():
        tensor.data.add_(0.01)
    tuned.save_pretrained(tmp_path / "adapter")
    with peft_warnings_hidden(), warnings.catch_warnings():
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(last_logits(loaded, padded, 1), last_logits(tuned, padded, 1))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


@pytest.mark.parametrize("scheme", [PrefixTuning(num_virtual_tokens=30), PromptTuning(num_virtual_tokens=30)])
def test_virtual_tokens_take_positions_of_the_text(scheme):
    assert usable_length(scheme.attach(model_zoo.opt(), seed=0)) == 2
    with pytest.raises(IncompatibleError, match=r"num_virtual_tokens 31 .* 32 positions"):
        type(scheme)(num_virtual_tokens=31).attach(model_zoo.opt(), seed=0)


@pytest.mark.parametrize("scheme", [PrefixTuning(), PromptTuning()])
def test_virtual_tokens_need_a_causal_model(scheme):
    with pytest.raises(IncompatibleError, match="RobertaForMaskedLM is none"):
        scheme.attach(model_zoo.roberta(), seed=0)


def test_schemes_describe_themselves():
    for name, scheme in TUNINGS.items():
        assert make_tuning({"name": name}) == scheme()
        assert make_tuning(scheme().describe()) == scheme()
    assert make_tuning({"name": "lora", "r": 4, "alpha": None}) == LoRATuning(r=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lorra"}, "'lorra'. Did you mean: lora"),
        ({"name": "lora", "rank": 3}, "--tuning lora has no option 'rank'"),
        ({"name": "full", "r": 3}, "--tuning full has no option 'r'"),
        ({"name": "lora", "r": 0}, "--tuning.r must be at least 1, got 0"),
        ({"name": "lora", "alpha": 0}, "--tuning.alpha must be at least 1, got 0"),
        ({"name": "prefix", "num_virtual_tokens": 0}, "--tuning.num_virtual_tokens must be at least 1"),
        ({"name": "prompt", "init": "text"}, "--tuning.init must be one of real, random, got 'text'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UsageError) as caught:
        make_tuning(settings)
    assert message in str(caught.value)


def test_unknown_schemes_have_no_class():
    assert tuning_class("lora") is LoRATuning
    with pytest.raises(UsageError, match="Available: full, lora, prefix, prompt"):
        tuning_class("adapter")
