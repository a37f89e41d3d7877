"""Which tensors move at which step."""

from foretune.schedules.lora_blocks import LoRABlocks
from foretune.schedules.magnitude_groups import MagnitudeGroups
from foretune.schedules.module_blocks import ModuleBlocks
from foretune.schedules.norm_scaled import NormScaled
from foretune.schedules.random_groups import RandomGroups
from foretune.schedules.whole import Whole

__all__ = ["LoRABlocks", "MagnitudeGroups", "ModuleBlocks", "NormScaled", "RandomGroups", "Whole"]
