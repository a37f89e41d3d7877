"""Evaluation of a model on a task's rows."""

from foretune.evaluation.functions import load_function
from foretune.evaluation.generation import generate_texts
from foretune.evaluation.metric_objective import CandidateMetricObjective, TextMetricObjective
from foretune.evaluation.metrics import METRICS, CandidateMetric, TextMetric, accuracy, find_metric
from foretune.evaluation.result import EvaluationResult
from foretune.evaluation.scoring import candidate_scores, evaluate_candidates
from foretune.evaluation.texts import TextWriter

__all__ = [
    "METRICS",
    "CandidateMetric",
    "CandidateMetricObjective",
    "EvaluationResult",
    "TextMetric",
    "TextMetricObjective",
    "TextWriter",
    "accuracy",
    "candidate_scores",
    "evaluate_candidates",
    "find_metric",
    "generate_texts",
    "load_function",
]
