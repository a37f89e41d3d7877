"""The transformers Trainer, by its hooks: its callbacks, trackers and resume, with steps of either order."""

from foretune.trainer.arguments import FOTrainingArguments, ZOTrainingArguments
from foretune.trainer.diagnostics import Diagnostics
from foretune.trainer.first_order import FOTrainer
from foretune.trainer.trainer import ZOTrainer

__all__ = ["Diagnostics", "FOTrainer", "FOTrainingArguments", "ZOTrainer", "ZOTrainingArguments"]
