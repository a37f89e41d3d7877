"""Which tensors move at which step."""

from foretune.schedules.lora_blocks import LoRABlocks
from foretune.schedules.module_blocks import ModuleBlocks
from foretune.schedules.random_groups import RandomGroups
from foretune.schedules.whole import Whole

__all__ = ["LoRABlocks", "ModuleBlocks", "RandomGroups", "Whole"]
