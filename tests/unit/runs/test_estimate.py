"""What is predicted without memory, against the same run on real tensors."""

import pytest
import torch
from transformers import AutoConfig

from foretune.adapters import make_tuning
from foretune.errors import UsageError
from foretune.methods import make_method, make_recipe
from foretune.objectives.masked_head import find_masked_head
from foretune.objectives.split_head import find_split_head
from foretune.objectives.tied_head import find_tied_head
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.runs.config import EstimateConfig
from foretune.runs.estimate import estimate
from foretune.runs.live_memory import LiveMemory
from foretune.runs.shapes import load_shape, random_model
from foretune.runs.synthetic import masked_probe_loss, probe_loss, synthetic_rows

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
MASKED = {
    "roberta": {**SIZES, "intermediate_size": 64, "max_position_embeddings": 66},
    "bert": {**SIZES, "intermediate_size": 64, "max_position_embeddings": 64},
}


@pytest.fixture(params=MODELS)
def folder(request, tmp_path):
    """A model's folder without weights."""
    return saved(request.param, MODELS[request.param], tmp_path)


@pytest.fixture(params=MASKED)
def masked_folder(request, tmp_path):
    """The same of a masked language model."""
    return saved(request.param, MASKED[request.param], tmp_path)


def saved(model_type, settings, folder):
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    AutoConfig.for_model(model_type, **special | settings).save_pretrained(folder)
    return str(folder)


def predicted(model, method="mezo", tuning="full", **others):
    sizes = {"batch_size": BATCH, "sequence_length": LENGTH, "device": "cpu"}
    return estimate(EstimateConfig(model=model, method={"name": method}, tuning={"name": tuning}, **sizes | others))


def real(model, tuning="full", objective="lm"):
    config = load_shape(model)
    base = random_model(config, dtype=torch.float32, device=torch.device("cpu"))
    tuned = make_tuning({"name": tuning}).attach(base, seed=0).eval()
    rows = synthetic_rows(config, num_rows=BATCH, length=LENGTH)
    if type(base).__name__.endswith("ForMaskedLM"):
        return tuned, masked_probe_loss(rows, tuned, find_masked_head(tuned))
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
def test_a_masked_language_model_is_followed_too(masked_folder, tuning):
    found = predicted(masked_folder, "adam", tuning, objective="classification")
    model, loss = real(masked_folder, tuning)
    assert found.weights == sum(t.numel() * t.itemsize for t in tensors(model))
    with torch.no_grad(), LiveMemory(tensors(model)) as live:
        loss()
    assert found.inference == pytest.approx(live.peak_bytes, rel=0.03)
    model.train()
    with LiveMemory(tensors(model)) as live:
        value = loss()
        with live.backward():
            value.backward()
    assert found.activations == pytest.approx(live.peak_bytes, rel=0.03)


@pytest.mark.parametrize(("engine", "tuning"), [("layerwise", "full"), ("layerwise", "lora"), ("in_place", "full")])
def test_a_slope_holds_tangents_of_activations_and_of_what_is_read(engine, tuning):
    found = predicted("mini", "forward_grad", tuning, engine=engine)
    model, loss = real("mini", tuning)
    optimizer = Optimizer(model, **make_method("forward_grad", {}).optimizer_arguments(), engine=engine)
    for _ in range(2):
        optimizer.step(loss)
    scratch = optimizer.engine.scratch_buffers if engine == "layerwise" else []
    with LiveMemory([*tensors(model), *scratch]) as live:
        optimizer.estimate(loss)
    assert found.scratch == sum(buffer.nbytes for buffer in scratch)
    velocity = 0 if engine == "layerwise" else 4096 * 256 * 4  # of one tensor at a time, before the loss
    assert live.peak_bytes == pytest.approx(found.activations, rel=0.03, abs=velocity)
    assert found.activations > 1.9 * found.inference


def test_a_velocity_in_a_larger_buffer_is_copied_once_more():
    """The decoder of RoBERTa is open together with its bias: scratch is larger than the table."""
    found = predicted("mini-masked", "forward_grad", objective="classification")
    model, loss = real("mini-masked")
    optimizer = Optimizer(model, **make_method("forward_grad", {}).optimizer_arguments(), engine="layerwise")
    for _ in range(2):
        optimizer.step(loss)
    with LiveMemory([*tensors(model), *optimizer.engine.scratch_buffers]) as live:
        optimizer.estimate(loss)
    assert found.activations == pytest.approx(live.peak_bytes, rel=0.03)
    assert found.activations > 2 * 4096 * 256 * 4


@pytest.mark.parametrize("num_shallow", [0, 2, 4])
def test_a_hybrid_holds_activations_and_gradients_of_its_deep_part(num_shallow):
    method = {"name": "hybrid", "hybrid_zo_layers": num_shallow, "fo_optimizer": "adam"}
    found = estimate(
        EstimateConfig(model="mini", method=method, batch_size=BATCH, sequence_length=LENGTH, device="cpu")
    )
    model, loss = real("mini")
    recipe = make_recipe("hybrid", {name: value for name, value in method.items() if name != "name"})
    hybrid = recipe.optimizer(model, engine="layerwise")
    for _ in range(2):
        hybrid.step(loss)
    deep = sum(t.parameter.numel() * 4 for t in hybrid.deep)
    assert found.gradients == deep
    assert found.state == 2 * deep
    assert found.scratch == found.layer == hybrid.zo.engine.scratch_bytes
    with LiveMemory([*tensors(model), *hybrid.zo.engine.scratch_buffers]) as live:
        hybrid.measure(loss)
    assert found.activations == pytest.approx(live.peak_bytes, rel=0.03)


@pytest.mark.parametrize("method", ["forward_grad", "hybrid", "mgs_bcd", "subzero_muon", "zobcd"])
def test_adapters_are_predicted_for_methods_of_every_kind(method):
    found = predicted("mini", method, "lora")
    assert 0 < found.weights < found.inference_peak <= found.peak
    assert found.allowance == found.layer + found.state


@pytest.mark.parametrize("tuning", ["full", "prefix"])
@pytest.mark.parametrize("method", ["subzero", "zo_muon"])
def test_bases_count_as_state(method, tuning):
    options = {"muon_space": "subspace"} if method == "zo_muon" else {}
    found = estimate(
        EstimateConfig(
            model="mini",
            method={"name": method, **options},
            tuning={"name": tuning},
            batch_size=BATCH,
            sequence_length=LENGTH,
            device="cpu",
        )
    )
    model, loss = real("mini", tuning)
    optimizer = Optimizer(model, **make_method(method, options, tuning=tuning).optimizer_arguments())
    optimizer.step(loss)
    kept = optimizer.parts.space._bases._kept.values()
    assert found.state == optimizer.state_bytes + sum(basis.nbytes for _, basis in kept)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_what_a_backward_pass_keeps_is_that_of_a_real_one(folder, tuning):
    found = predicted(folder, "adam", tuning)
    model, loss = real(folder, tuning)
    model.train()
    with LiveMemory(tensors(model)) as live:
        value = loss()
        with live.backward():
            value.backward()
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
    vectors = (12 * (9 * 768 + 3072) + 2 * 768) * 4  # held
    assert gpu.scratch == 50272 * 768 * 4 + vectors
    rows = BATCH * (LENGTH - 1) + BATCH * 2  # looked up in the texts, and as candidates
    layer = 3072 * 768 * 4  # the largest of the others
    assert cpu.scratch == pytest.approx(layer + vectors + rows * (768 * 4 + 4096 - 64), rel=1e-3)


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


# ---------------------------------------------------------------- large models, by hand

MIB = 2**20
ROWS, TOKENS, CHUNK = 16, 256, 1024
PREDICTED = ROWS * (TOKENS - 1)  # positions; the last token is not read
LARGE = {
    # hidden, layers, inner, vocabulary, inner activations held at a time, hidden ones besides
    "opt-1.3b": (2048, 24, 8192, 50272, 2, 4),
    "opt-13b": (5120, 40, 20480, 50272, 2, 4),
    "llama-7b": (4096, 32, 11008, 32000, 3, 4),
}


@pytest.mark.parametrize("name", LARGE)
def test_figures_of_large_models_are_those_of_hand_arithmetic(name):
    """bfloat16 on a GPU: two bytes a number; nothing of the model is allocated."""
    hidden, layers, inner, vocabulary, num_inner, num_hidden = LARGE[name]
    if name.startswith("opt"):
        matrices, vectors = 4 * hidden * hidden + 2 * hidden * inner, layers * (9 * hidden + inner) + 2 * hidden
        weights = (vocabulary + 2050) * hidden + layers * matrices + vectors
    else:
        matrices, vectors = 4 * hidden * hidden + 3 * hidden * inner, layers * 2 * hidden + hidden
        weights = 2 * vocabulary * hidden + layers * matrices + vectors
    logits = CHUNK * vocabulary * (4 + 4) + PREDICTED * hidden * 2  # float32, twice in their logsumexp
    within = PREDICTED * (num_inner * inner + num_hidden * hidden) * 2
    found = estimate(
        EstimateConfig(
            model=name,
            batch_size=ROWS,
            sequence_length=TOKENS,
            dtype="bfloat16",
            device="cuda",
            method={"name": "mezo"},
        )
    )
    assert found.weights == pytest.approx(2 * weights, rel=1e-3)
    assert found.layer == found.scratch == 2 * (vocabulary * hidden + vectors)
    assert found.inference == pytest.approx(max(logits, within), rel=0.02)
    assert found.peak == pytest.approx(2 * weights + found.scratch + max(logits, within), rel=0.002)


def test_adam_on_a_large_model_holds_it_four_times():
    """Weights, gradients and two averages, and two temporaries of the largest tensor."""
    found = predicted("opt-1.3b", "adam", dtype="bfloat16")
    assert found.state == 2 * found.weights
    assert found.peak == pytest.approx(4 * found.weights + 2 * (50272 * 2048 * 2), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "--model is missing"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"sequence_length": 1}, "--sequence-length must be at least 2, got 1"),
        ({"sequence_length": 4096}, "mini has 512 positions"),
        ({"method": {"name": "adam"}, "engine": "in_place"}, "perturbs nothing"),
        ({"model": "mini-masked"}, "--objective lm: mini-masked is a masked language model"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        estimate(EstimateConfig(**{"model": "mini", "device": "cpu", **options}))
