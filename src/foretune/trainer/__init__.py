"""The transformers Trainer, by its hooks: its callbacks, trackers and resume, with zeroth-order steps."""

from foretune.trainer.arguments import ZOTrainingArguments
from foretune.trainer.trainer import ZOTrainer

__all__ = ["ZOTrainer", "ZOTrainingArguments"]
