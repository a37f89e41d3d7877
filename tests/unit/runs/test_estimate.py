"""What is predicted without memory, against the same run on real tensors."""

import pytest
import torch
from transformers import AutoConfig

from foretune.adapters import make_tuning
from foretune.errors import IncompatibleError, UsageError
from foretune.methods import make_method, make_recipe
from foretune.objectives.split_head import find_split_head
from foretune.objectives.tied_head import find_tied_head
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.config import EstimateConfig
from foretune.runs.estimate import estimate
from foretune.runs.live_memory import LiveMemory
from foretune.runs.shapes import load_shape, random_model
from foretune.runs.synthetic import probe_loss, synthetic_rows

BATCH, LENGTH = 3, 24
SIZES = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS = {
    "opt": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "llama": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "qwen2": {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "gpt2": {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {  # logits so capped that its head is more than a product also by the values of random weights
        **SIZES,
        "intermediate_size": 64,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "final_logit_softcapping": 0.02,
    },
}


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    """A model's folder without weights."""
    settings = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, **MODELS[request.param]}
    AutoConfig.for_model(request.param, **settings).save_pretrained(tmp_path)
    return str(tmp_path)


def predicted(model, method="mezo", tuning="full", **others):
    sizes = {"batch_size": BATCH, "sequence_length": LENGTH, "device": "cpu"}
    return estimate(EstimateConfig(model=model, method={"name": method}, tuning={"name": tuning}, **sizes | others))


def real(model, tuning="full", objective="lm"):
    config = load_shape(model)
    base = random_model(config, dtype=torch.float32, device=torch.device("cpu"))
    tuned = make_tuning({"name": tuning}).attach(base, seed=0).eval()
    rows = synthetic_rows(config, num_rows=BATCH, length=LENGTH)
    return tuned, probe_loss(objective, rows, tuned, find_split_head(tuned), find_tied_head(tuned))


def tensors(model):
    return {id(t): t for t in (*model.parameters(), *model.buffers())}.values()


@pytest.mark.parametrize("tuning", ["full", "lora", "prefix", "prompt"])
@pytest.mark.parametrize("objective", ["lm", "classification"])
def test_weights_are_equal_and_activations_those_of_a_real_forward(folder, tuning, objective):
    found = predicted(folder, tuning=tuning, objective=objective)
    model, loss = real(folder, tuning, objective)
    assert found.weights == sum(t.numel() * t.itemsize for t in tensors(model))
    assert found.trainable == sum(t.numel() * t.itemsize for t in model.parameters() if t.requires_grad)
    with torch.no_grad(), LiveMemory(tensors(model)) as live:
        loss()
    assert found.inference == pytest.approx(live.peak_bytes, rel=0.03)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_what_a_backward_pass_keeps_is_that_of_a_real_one(folder, tuning):
    found = predicted(folder, "adam", tuning)
    model, loss = real(folder, tuning)
    model.train()
    with LiveMemory(tensors(model)) as live:
        loss().backward()
    assert found.activations == pytest.approx(live.peak_bytes, rel=0.03)
    assert found.gradients == sum(t.grad.numel() * 4 for t in model.parameters() if t.grad is not None)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("method", ["mezo", "lozo_m", "zo_adam", "zo_momentum"])
def test_state_and_scratch_are_those_of_a_real_run(method, tuning):
    found = predicted("mini", method, tuning)
    model, loss = real("mini", tuning)
    optimizer = Optimizer(model, **make_method(method, {}).optimizer_arguments(), engine="layerwise")
    for _ in range(2):
        optimizer.step(loss)
    held = [t for state in optimizer.tensor_states.values() for t in state.tensors.values()]
    assert found.state == sum(t.numel() * t.itemsize for t in held)
    assert found.scratch == optimizer.engine.scratch_bytes


def test_state_of_a_first_order_run():
    found = predicted("mini", "adam")
    model, _ = real("mini")
    optimizer = make_recipe("adam", {}).optimizer(collect_trainables(model))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    held = [t for state in optimizer.state.values() for t in state.values() if t.dim()]  # without counters
    assert found.state == sum(t.numel() * t.itemsize for t in held)


def test_in_place_keeps_a_copy_of_what_is_tuned():
    found = predicted("mini", engine="in_place")
    assert found.scratch == found.trainable == found.weights


def test_an_embedding_that_is_only_looked_up_is_touched_in_few_rows():
    settings = {"objective": "classification", "dtype": "float32"}
    cpu, gpu = (predicted("opt-125m", device=device, **settings) for device in ("cpu", "cuda"))
    assert gpu.scratch == 50272 * 768 * 4
    assert cpu.scratch == pytest.approx(3072 * 769 * 4, rel=1e-4)  # the largest of the other layers


def test_updates_that_need_the_estimate_hold_it_for_the_largest_tensor():
    largest = 4096 * 256 * 4
    assert predicted("mini", "mezo").update < 1024
    assert predicted("mini", "zo_adam").update == pytest.approx(largest, rel=0.01)
    assert predicted("mini", "adam").update == pytest.approx(2 * largest, rel=0.01)


def test_peak_is_that_of_the_loss_or_of_the_update():
    found = predicted("mini", "zo_adam")
    resting = found.weights + found.state + found.scratch
    assert found.peak == resting + max(found.activations, found.update)
    assert found.inference_peak == found.weights + found.inference


def test_settings_of_method_and_scheme_count():
    ranks = [
        estimate(
            EstimateConfig(
                model="mini", method={"name": "lozo_m", "rank": rank}, tuning={"name": "lora", "r": r}, device="cpu"
            )
        )
        for rank, r in ((1, 8), (2, 8), (2, 16))
    ]
    assert ranks[1].state > ranks[0].state
    assert ranks[2].weights - ranks[1].weights == 8 * 2 * 4 * 512 * 4  # queries and values of 4 layers


@pytest.mark.parametrize("method", ["forward_grad", "hybrid"])
def test_methods_that_cannot_be_followed_are_refused(method):
    with pytest.raises(IncompatibleError, match=f"--method {method}: its memory cannot be predicted"):
        predicted("mini", method)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--model is missing"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"sequence_length": 1}, "--sequence-length must be at least 2, got 1"),
        ({"sequence_length": 4096}, "mini has 512 positions"),
        ({"method": {"name": "adam"}, "engine": "in_place"}, "perturbs nothing"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        estimate(EstimateConfig(**{"model": "mini", "device": "cpu", **options}))
