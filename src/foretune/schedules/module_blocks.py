"""Block-wise descent: the modules of a model move one after the other, each along its own direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foretune import noise
from foretune.errors import UsageError, near_misses
from foretune.noise import Noise, Purpose
from foretune.schedules.module_paths import Level, partition
from foretune.schedules.whole import Whole
from foretune.types import AbstractSchedule, Block, Trainable

_LEVELS: dict[str, Level] = {
    "block": "block",
    "attn_mlp": "attn_mlp",
    "linear": "linear",
    "transformer-block": "block",
    "mlp-attn": "attn_mlp",
}
_ORDERS = ("forward", "reverse", "random")


@dataclass(frozen=True, kw_only=True)
class ModuleBlocks(AbstractSchedule):
    """Every step measures each block of modules on the same batch, along a direction of that block alone.

        g_b = (L(theta + zo_eps z_b) - L(theta - zo_eps z_b)) / (2 zo_eps),  theta_b <- theta_b - lr g_b z_b

    With B blocks a step costs B times the forwards of one estimate (two-sided: 2 B) and keeps no state. All at
    once, ``E||estimate||^2 = sum_b (d_b + 2) ||grad_b||^2`` instead of ``(d + 2) ||grad||^2``. Blocks follow the
    structure of the model's module tree, so any model is partitioned, completely: adapters belong to the block of
    the module they sit in, and whatever is outside the layers is a block of its own.

    Args:
        level: ``block`` (a transformer layer), ``attn_mlp`` (a direct child of a layer: attention, MLP, norm) or
            ``linear`` (a single module). Published spellings: transformer-block, mlp-attn, linear.
        sequential: True updates a block before the next one is measured (Gauss-Seidel, published as
            coordinate_perturbation); False measures all blocks at the same weights (Jacobi).
        order: ``forward`` (by the modules' paths, numbers by value), ``reverse`` or ``random`` (anew each cycle).
        blocks_per_step: Blocks visited in one step, in turn, so that a cycle of several steps visits each of them
            once; default all.
        matrix_lr_scale: Factor on the learning rate of matrices (not of biases and norm weights).
        vector_lr_scale: Factor on the learning rate of the others.
    Raises:
        UsageError: an unknown level or order, a number of blocks below 1, or a factor that is not positive.
    References:
        Zhang et al. 2024, arXiv:2402.11592, block-wise descent.
        Differs from the published code: blocks have independent noise, no tensor is left out, the partition does
        not depend on the names of one model family, and any estimator and number of directions will do.
    """

    level: Literal["block", "attn_mlp", "linear", "transformer-block", "mlp-attn"] = "block"
    sequential: bool = True  # pyrefly: ignore[bad-override]
    order: Literal["forward", "reverse", "random"] = "forward"
    blocks_per_step: int | None = None
    matrix_lr_scale: float = 1.0
    vector_lr_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("level", _LEVELS), ("order", _ORDERS)):
            if getattr(self, name) not in known:
                raise UsageError(f"Unknown {name} {getattr(self, name)!r}.{near_misses(getattr(self, name), known)}")
        if self.blocks_per_step is not None and self.blocks_per_step < 1:
            raise UsageError(f"blocks_per_step must be at least 1, got {self.blocks_per_step}.")
        object.__setattr__(self, "level", _LEVELS[self.level])  # a journal is the same for both spellings
        self._whole()  # refuses factors out of range

    def _whole(self) -> Whole:
        return Whole(matrix_lr_scale=self.matrix_lr_scale, vector_lr_scale=self.vector_lr_scale)

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return the blocks of this step, disjoint; those of a cycle hold every tensor once."""
        (everything,) = self._whole().blocks(step, trainables, seed=seed)
        parted = partition(tuple(trainable.name for trainable in trainables), _LEVELS[self.level])
        size = min(self.blocks_per_step or len(parted), len(parted))
        cycle, turn = divmod(step, -(-len(parted) // size))
        visited = self._ordered(len(parted), cycle, seed)[turn * size : (turn + 1) * size]
        return [Block(tuple(everything.members[index] for index in parted[block])) for block in visited]

    def _ordered(self, num_blocks: int, cycle: int, seed: int) -> list[int]:
        """Return the numbers of all blocks in the order of a cycle."""
        order = range(num_blocks)
        if self.order == "reverse":
            return list(reversed(order))
        if self.order == "random":
            lanes = noise.lanes((num_blocks, 2), Noise(noise.mix(seed, cycle), 0, Purpose.BLOCK_ORDER)).tolist()
            return sorted(order, key=lanes.__getitem__)
        return list(order)
