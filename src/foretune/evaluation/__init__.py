"""Evaluation of a model on a task's rows."""

from foretune.evaluation.metrics import accuracy
from foretune.evaluation.scoring import EvaluationResult, evaluate_classification

__all__ = ["EvaluationResult", "accuracy", "evaluate_classification"]
