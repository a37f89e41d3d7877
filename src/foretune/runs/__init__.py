"""Whole runs, as the command line starts them: from a configuration to a folder with a tuned model."""

from foretune.runs.config import EvaluateConfig, ReplayConfig, TrainConfig

__all__ = ["EvaluateConfig", "ReplayConfig", "TrainConfig"]
