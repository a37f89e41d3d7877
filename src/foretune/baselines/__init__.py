"""What zeroth-order tuning is compared with that trains no more than a model's output head."""

from foretune.baselines.head_tuning import HeadTuning
from foretune.baselines.linear_probe import fit_linear_probe

__all__ = ["HeadTuning", "fit_linear_probe"]
