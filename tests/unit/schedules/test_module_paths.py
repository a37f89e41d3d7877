"""Blocks of modules by the names of their tensors, on real architectures and on the corners of naming."""

from collections.abc import Callable

import pytest
from torch import nn

import model_zoo
from foretune.parameters import collect_trainables
from foretune.schedules.module_paths import lora_side, module_path, natural_order, partition

MODELS: dict[str, Callable[[], nn.Module]] = {
    "opt": model_zoo.opt,
    "llama": model_zoo.llama,
    "gpt2": model_zoo.gpt2,
    "roberta": model_zoo.roberta,
    "qwen2": model_zoo.qwen2,
    "mixtral": model_zoo.mixtral,
    "qwen2_moe": model_zoo.qwen2_moe,
    "opt_lora": lambda: model_zoo.with_adapter(model_zoo.opt, "lora"),
    "opt_prefix": lambda: model_zoo.with_adapter(model_zoo.opt, "prefix"),
}

NUM_BLOCKS = {
    # two layers and what is outside of them: (layers, children of layers, modules)
    "opt": (2 + 3, 2 * 5 + 3, 2 * 8 + 3),  # embedding, positions, final norm; attention of four modules, two norms
    "llama": (2 + 3, 2 * 4 + 3, 2 * 9 + 3),  # embedding, norm, untied head
    "gpt2": (2 + 3, 2 * 4 + 3, 2 * 6 + 3),
    "roberta": (2 + 7, 2 * 3 + 7, 2 * 8 + 7),  # three of the embeddings; the head's bias, dense, norm and tied decoder
    "qwen2": (2 + 2, 2 * 4 + 2, 2 * 9 + 2),
    "mixtral": (2 + 3, 2 * 4 + 3, 2 * 8 + 3),  # a layer's experts are one module with two tensors
    "qwen2_moe": (2 + 3, 2 * 4 + 3, 2 * 12 + 3),
    "opt_lora": (2, 2, 2 * 2),
    "opt_prefix": (1, 1, 1),
}


def named_blocks(model: nn.Module, level: str) -> list[list[str]]:
    names = tuple(trainable.name for trainable in collect_trainables(model))
    return [[names[index] for index in block] for block in partition(names, level)]


@pytest.mark.parametrize("name", MODELS)
def test_any_model_is_parted_completely_and_by_its_structure(name: str) -> None:
    model = MODELS[name]()
    names = [trainable.name for trainable in collect_trainables(model)]
    for level, num_blocks in zip(("block", "attn_mlp", "linear"), NUM_BLOCKS[name], strict=True):
        blocks = named_blocks(model, level)
        assert sorted(tensor for block in blocks for tensor in block) == names
        assert len(blocks) == num_blocks, [block[0] for block in blocks]


def test_opt_at_every_level() -> None:
    """Layers; attention, both linear layers and both norms; single modules."""
    layer = "model.decoder.layers.0."
    blocks = {level: named_blocks(model_zoo.opt(), level) for level in ("block", "attn_mlp", "linear")}
    assert {len(block) for block in blocks["block"] if block[0].startswith(layer)} == {16}
    children = [block[0].removeprefix(layer).split(".")[0] for block in blocks["attn_mlp"] if layer in block[0]]
    assert children == ["fc1", "fc2", "final_layer_norm", "self_attn", "self_attn_layer_norm"]
    assert [f"{layer}self_attn.q_proj.bias", f"{layer}self_attn.q_proj.weight"] in blocks["linear"]


def test_layers_are_in_the_order_of_their_numbers() -> None:
    blocks = named_blocks(model_zoo.opt(num_layers=11), "block")
    numbers = [block[0].split(".")[3] for block in blocks if ".layers." in block[0]]
    assert numbers == [str(number) for number in range(11)]
    assert natural_order(("h", "10")) > natural_order(("h", "9", "mlp")) > natural_order(("h", "9"))


def test_adapters_sit_in_the_module_they_adapt() -> None:
    names = (
        "m.layers.0.attn.q.base_layer.weight",
        "m.layers.0.attn.q.lora_A.default.weight",
        "m.layers.0.attn.q.lora_B.default.weight",
        "m.layers.0.attn.q.lora_magnitude_vector.default.weight",
        "m.layers.0.attn.v.lora_embedding_A.default",
        "m.layers.1.attn.v.lora_B.default.weight",
        "prompt_encoder.default.embedding.weight",
    )
    assert {module_path(name) for name in names[:4]} == {("m", "layers", "0", "attn", "q")}
    assert partition(names, "linear") == ((0, 1, 2, 3), (4,), (5,), (6,))
    assert partition(names, "attn_mlp") == ((0, 1, 2, 3, 4), (5,), (6,))
    assert [lora_side(name) for name in names] == [None, "A", "B", None, "A", "B", None]


def test_only_numbers_with_siblings_are_layers_and_only_the_outermost_ones() -> None:
    names = ("h.0.experts.0.up.weight", "h.0.experts.1.up.weight", "h.1.up.weight", "head.0.proj.weight", "scale")
    assert partition(names, "block") == ((4,), (0, 1), (2,), (3,))
    assert partition(names, "attn_mlp") == ((4,), (0,), (1,), (2,), (3,))


def test_children_that_only_hold_numbered_modules_are_looked_through() -> None:
    """As in T5, where a block has one child, a list of its attention and feed-forward layers."""
    names = tuple(f"encoder.block.{i}.layer.{j}.{m}.weight" for i in (0, 1) for j in (0, 1) for m in ("norm", "wi"))
    assert partition(names, "attn_mlp") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert partition(names, "block") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert partition(("h.0.scale", "h.0.mlp.weight", "h.1.scale"), "attn_mlp") == ((0,), (1,), (2,))
