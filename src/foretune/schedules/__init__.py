"""Which tensors move at which step."""

from foretune.schedules.lora_blocks import LoRABlocks
from foretune.schedules.module_blocks import ModuleBlocks
from foretune.schedules.whole import Whole

__all__ = ["LoRABlocks", "ModuleBlocks", "Whole"]
