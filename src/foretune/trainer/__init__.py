"""The transformers Trainer, by its hooks: its callbacks, trackers and resume, with steps of either order."""

from foretune.trainer.arguments import FOTrainingArguments, HybridTrainingArguments, ZOTrainingArguments
from foretune.trainer.diagnostics import Diagnostics
from foretune.trainer.first_order import FOTrainer
from foretune.trainer.hybrid import HybridTrainer
from foretune.trainer.trainer import ZOTrainer

__all__ = [
    "Diagnostics",
    "FOTrainer",
    "FOTrainingArguments",
    "HybridTrainer",
    "HybridTrainingArguments",
    "ZOTrainer",
    "ZOTrainingArguments",
]
