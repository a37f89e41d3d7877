"""Evaluation by generation: what the model writes is compared with the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from foretune.evaluation.generation import generate_texts
from foretune.evaluation.metrics import METRICS, TextMetric
from foretune.objectives import EncodedExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class TextWriter:
    """Writes texts for rows and measures them.

    Args:
        tokenizer: The model's.
        max_new_tokens: Most tokens of a text.
        stops_at_newline: Whether an answer is a line.
        max_length: Most tokens of prompt and text together.
        batch_size: Rows of a batch.
    """

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    stops_at_newline: bool
    max_length: int
    batch_size: int = 32

    @torch.no_grad()
    def write(self, model: Any, rows: Sequence[EncodedExample]) -> list[str]:
        """Return the text that the model writes after each row's prompt."""
        return generate_texts(
            model,
            self.tokenizer,
            [row.prompt_ids for row in rows],
            max_new_tokens=self.max_new_tokens,
            stops_at_newline=self.stops_at_newline,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    def examples(self, rows: Sequence[EncodedExample]) -> list[Mapping[str, Any]]:
        """Return what a metric is told of each row: its prompt, as the model sees it, and its reference texts."""
        prompts = self.tokenizer.batch_decode([list(row.prompt_ids) for row in rows], skip_special_tokens=True)
        return [{"prompt": prompt, "answers": row.answers} for prompt, row in zip(prompts, rows, strict=True)]

    def measure(self, texts: Sequence[str], rows: Sequence[EncodedExample], first: TextMetric) -> dict[str, float]:
        """Return the metrics of texts: `first`, then every built-in one if there is anything to compare with."""
        examples = self.examples(rows)
        has_answers = any(any(row.answers) for row in rows)
        others = [metric for metric in METRICS.values() if has_answers and isinstance(metric, TextMetric)]
        return {metric.name: metric(texts, examples) for metric in dict.fromkeys((first, *others))}
