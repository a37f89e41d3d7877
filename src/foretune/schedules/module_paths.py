"""Where in a model a tensor sits, read off its canonical name: its module, layer, and side of an adapter.

Nothing here knows a model family. A layer is a numbered module that has numbered siblings (`h.0` beside `h.1`);
of nested numbers (experts within a layer) the outermost counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

Level = Literal["block", "attn_mlp", "linear"]

_LORA_SIDE = {"lora_A": "A", "lora_embedding_A": "A", "lora_B": "B", "lora_embedding_B": "B"}


def module_path(name: str) -> tuple[str, ...]:
    """Return the path of the module a tensor belongs to; a LoRA tensor belongs to the module it adapts."""
    path = name.split(".")[:-1]
    adapter = next((index for index, part in enumerate(path) if part.startswith("lora_")), len(path))
    return tuple(part for part in path[:adapter] if part != "base_layer")


def lora_side(name: str) -> str | None:
    """Return "A" or "B" for the two factors of a LoRA update, None for any other tensor."""
    return next((_LORA_SIDE[part] for part in name.split(".") if part in _LORA_SIDE), None)


def natural_order(path: Sequence[str]) -> list[tuple[int, str]]:
    """Sort key of a path: numbers by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in path]


def layer_paths(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return for each tensor the path of the layer it belongs to, empty outside of any layer.

    Args:
        names: Canonical names of all tensors of a model, frozen ones included: siblings tell what a layer is.
    """
    paths = [module_path(name) for name in names]
    return [path[:length] for path, length in zip(paths, _layer_lengths(paths), strict=True)]


@lru_cache(maxsize=8)
def partition(names: tuple[str, ...], level: Level) -> tuple[tuple[int, ...], ...]:
    """Part tensors into blocks of modules, by their names.

    Args:
        names: Canonical names of all tensors.
        level: ``block``: a whole layer. ``attn_mlp``: a direct child of a layer (one that only holds numbered
            modules is looked through). ``linear``: the module that owns the tensor. Modules outside the layers are
            blocks of their own at every level.
    Returns:
        Indexes into `names`, block by block, in the natural order of the modules' paths.
    """
    paths = [module_path(name) for name in names]
    lengths = _layer_lengths(paths)
    blocks: dict[tuple[str, ...], list[int]] = {}
    for index, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        if length and level != "linear":
            path = path[: length if level == "block" else _child_length(path, length)]
        blocks.setdefault(path, []).append(index)
    parted = tuple(tuple(blocks[path]) for path in sorted(blocks, key=natural_order))
    assert sorted(index for block in parted for index in block) == list(range(len(names)))
    return parted


def _layer_lengths(paths: Sequence[tuple[str, ...]]) -> list[int]:
    """Return for each path how many of its components name the layer, 0 outside of any layer."""
    numbered: dict[tuple[str, ...], set[str]] = {}
    for path in paths:
        for index in _numbers(path):
            numbered.setdefault(path[:index], set()).add(path[index])
    return [next((i + 1 for i in _numbers(path) if len(numbered[path[:i]]) > 1), 0) for path in paths]


def _child_length(path: tuple[str, ...], layer: int) -> int:
    """Return how many components name the direct child of the layer that holds the tensor."""
    looked_through = len(path) > layer + 1 and path[layer + 1].isdecimal()
    return layer + 2 if looked_through else layer + 1


def _numbers(path: Sequence[str]) -> Iterator[int]:
    return (index for index, part in enumerate(path) if part.isdecimal())
