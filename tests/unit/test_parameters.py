"""Which tensors are trained, under which names and streams, and which are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from foretune import noise
from foretune.errors import IncompatibleError, UsageError
from foretune.noise import Noise, Purpose, stream_id
from foretune.parameters import collect_trainables, is_adapter, matrix_shape, memory_span
from foretune.types import Trainable
from model_zoo import Lists, Nested, gpt2, llama, opt, qwen2_moe, roberta, with_adapter


def names(model: nn.Module) -> list[str]:
    return [trainable.name for trainable in collect_trainables(model)]


def z_by_name(model: nn.Module) -> dict[str, bytes]:
    return {
        trainable.name: noise.fill(torch.empty(trainable.shape), Noise(5, trainable.stream, Purpose.DIRECTION))
        .numpy()
        .tobytes()
        for trainable in collect_trainables(model)
    }


# ---------------------------------------------------------------- names


def test_tied_tensors_are_counted_once_under_their_smallest_name() -> None:
    model = opt()
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight
    assert "lm_head.weight" in names(model)
    assert "model.decoder.embed_tokens.weight" not in names(model)
    assert names(Nested()) == ["bias", "child.weight", "norm.weight", "scale"]
    roberta_names = names(roberta())
    assert "lm_head.bias" in roberta_names
    assert "lm_head.decoder.weight" in roberta_names
    assert not {"lm_head.decoder.bias", "roberta.embeddings.word_embeddings.weight"} & set(roberta_names)


@pytest.mark.parametrize("build", [opt, llama, gpt2, roberta, qwen2_moe, Lists])
def test_every_distinct_parameter_is_there_once_in_the_order_of_names(build) -> None:
    model = build()
    trainables = collect_trainables(model)
    found = [trainable.name for trainable in trainables]
    assert found == sorted(found)
    assert {id(t.parameter) for t in trainables} == {id(parameter) for parameter in model.parameters()}
    assert len(trainables) == len(list(model.parameters()))
    assert [trainable.stream for trainable in trainables] == [stream_id(name) for name in found]


def test_frozen_tensors_are_left_out() -> None:
    model = opt()
    model.model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert names(model) == ["lm_head.weight"]


def test_registration_order_does_not_matter() -> None:
    def build(order: list[str]) -> nn.Module:
        model = nn.Module()
        parts = {"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "norm": nn.LayerNorm(3)}
        for name in order:
            model.add_module(name, parts[name])
        model.tied = parts["a"]
        if order[0] == "b":  # an alias that is registered first
            model._modules = {"tied": model._modules.pop("tied"), **model._modules}
        return model

    first, second = z_by_name(build(["a", "b", "norm"])), z_by_name(build(["b", "norm", "a"]))
    assert list(first) == list(second)
    assert first == second
    assert len(set(first.values())) == len(first)  # equal shapes do not share noise


def distributed(model: nn.Module) -> nn.Module:
    """The wrapper alone: its constructor wants a process group."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


@pytest.mark.parametrize(
    "wrap",
    [
        DataParallel,
        distributed,
        torch.compile,
        lambda model: distributed(torch.compile(model)),
        lambda model: torch.compile(distributed(model)),
    ],
)
def test_prefixes_of_wrappers_are_stripped(wrap) -> None:
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert names(wrap(plain)) == names(plain) == ["0.bias", "0.weight", "1.bias", "1.weight"]


def test_a_compiled_part_and_a_module_called_module() -> None:
    model = nn.Module()
    model.module = torch.compile(nn.Linear(2, 2))
    assert names(model) == ["module.bias", "module.weight"]


def test_names_that_hash_to_one_stream_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("foretune.parameters.stream_id", lambda name: 7)
    with pytest.raises(IncompatibleError, match="'bias' and 'weight' hash to one noise stream"):
        collect_trainables(nn.Linear(2, 2))


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), None),
        ((5,), None),
        ((1, 5), None),
        ((5, 1), None),
        ((1, 1), None),
        ((2, 2), (2, 2)),
        ((3, 4), (3, 4)),
        ((3, 4, 5), (3, 20)),
        ((1, 4, 5), None),
        ((3, 1, 1), None),
        ((3, 1, 2), (3, 2)),
    ],
)
def test_matrix_shapes(shape, expected) -> None:
    assert matrix_shape(shape) == expected


def test_weight_decay_spares_biases_and_norms() -> None:
    by_name = {trainable.name: trainable.decays for trainable in collect_trainables(roberta())}
    assert {name for name, decays in by_name.items() if not decays} == {
        name for name in by_name if "bias" in name or "LayerNorm" in name or "layer_norm" in name
    }

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, 3))
            self.up_bias = nn.Parameter(torch.ones(2, 3))

    assert {t.name: t.decays for t in collect_trainables(Experts())} == {"up_bias": False, "weight": True}
    assert not any(t.decays for t in collect_trainables(nn.GroupNorm(2, 4)))


# ---------------------------------------------------------------- refusals


def test_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="no trainable tensor"):
        collect_trainables(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(UsageError, match="no trainable tensor"):
        collect_trainables(nn.ReLU())


def test_meta_tensors_are_refused_by_name_unless_frozen() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(IncompatibleError, match=r"'1\.bias' is on the meta device \(offloaded"):
        collect_trainables(model)
    model[1].requires_grad_(False)
    assert names(model) == ["0.bias", "0.weight"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64], ids=str)
def test_dtypes_without_noise_are_refused_by_name(dtype) -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    with pytest.raises(IncompatibleError, match=f"'weight' has dtype {dtype}; .*float32, bfloat16"):
        collect_trainables(model)


def test_lazy_tensors_are_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"'0\.bias' has no shape yet"):
        collect_trainables(nn.Sequential(nn.LazyLinear(2)))


class Sharded(torch.Tensor):
    """A tensor that stands for others, as those of sharded and quantized models do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Sharded:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, requires_grad=True)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Sharded(args[0])
        raise NotImplementedError(func)


def test_tensors_that_are_not_plain_memory_are_refused_by_name() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(IncompatibleError, match=r"'weight' is a Parameter of layout torch\.sparse_coo"):
        collect_trainables(model)
    model.weight = nn.Parameter(Sharded(torch.eye(3)))
    with pytest.raises(IncompatibleError, match="'weight' is a Sharded"):
        collect_trainables(model)


@pytest.mark.parametrize("other_is_frozen", [False, True])
@pytest.mark.parametrize("part", [slice(0, 4), slice(3, 4), slice(2, 6)])
def test_distinct_parameters_in_one_memory_are_refused(part, other_is_frozen) -> None:
    memory = torch.zeros(8)
    model = nn.Module()
    model.first = nn.Parameter(memory[:4])
    model.second = nn.Parameter(memory[part], requires_grad=not other_is_frozen)
    with pytest.raises(IncompatibleError, match=r"'(first|second)' and '(first|second)' share memory"):
        collect_trainables(model)


def test_neighbours_in_one_memory_and_frozen_copies_are_fine() -> None:
    memory = torch.zeros(8)
    model = nn.Module()
    model.first, model.second = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    frozen = torch.zeros(3)
    model.third = nn.Parameter(frozen, requires_grad=False)
    model.fourth = nn.Parameter(frozen, requires_grad=False)
    model.empty, model.void = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(0, 3))
    assert names(model) == ["empty", "first", "second", "void"]


def test_memory_spans() -> None:
    memory = torch.zeros(4, 6)
    assert memory_span(memory)[1:] == (0, 96)
    assert memory_span(memory[1:3, 2:4])[1:] == (32, 64)
    assert memory_span(memory.t()) == memory_span(memory)
    assert not memory_span(memory[:2]).overlaps(memory_span(memory[2:]))
    assert memory_span(memory[:3]).overlaps(memory_span(memory[2:]))
    assert not memory_span(memory).overlaps(memory_span(torch.zeros(4, 6)))


# ---------------------------------------------------------------- adapters


def adapted(kind: str) -> list[Trainable]:
    return list(collect_trainables(with_adapter(llama, kind)))


def test_tensors_of_adapters_are_known_by_their_names() -> None:
    """LoRA's factors, prefixes and prompts; not a model's own tensors, fully tuned."""
    assert [len(adapted(kind)) for kind in ("lora", "prefix", "prompt")] == [8, 1, 1]
    assert all(trainable.is_adapter for kind in ("lora", "prefix", "prompt") for trainable in adapted(kind))
    assert not any(trainable.is_adapter for trainable in collect_trainables(llama()))
    assert not is_adapter("model.exploration.prompt_encoder_norm.weight")


def test_a_prefix_holds_a_key_and_a_value_per_layer() -> None:
    """Their width is that of the key heads: 2 of 4 heads of 4."""
    (prefix,) = adapted("prefix")
    assert (prefix.shape, prefix.matrix_shape, prefix.num_views) == ((3, 32), (3, 32), 4)
    assert {trainable.num_views for kind in ("lora", "prompt") for trainable in adapted(kind)} == {1}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_prefixes_that_are_no_stack_of_matrices() -> None:
    """One that a network makes, and one of a single token, which is a vector."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    for settings in ({"num_virtual_tokens": 3, "prefix_projection": True}, {"num_virtual_tokens": 1}):
        config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, **settings)
        assert {trainable.num_views for trainable in collect_trainables(get_peft_model(llama(), config))} == {1}
