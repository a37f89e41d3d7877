"""From a row and a template to a prompt and the texts that follow it (causal language models)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from foretune.tasks.base import Example

SEPARATOR = "\n\n"
"""What stands between demonstrations, and between them and the row that is asked about."""


def strip_text(text: str) -> str:
    r"""Strip spaces (not newlines) at both ends, and any white space in front.

    A prompt therefore never ends in a space, so the option carries its own (``"... It was" + " great"``),
    while one that ends in a newline keeps it and the option starts without a space (``"...\n" + "Yes"``).
    """
    return text.strip(" ").lstrip()


def write_options(prompt: str, targets: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Strip a prompt, and return it with what follows it once each ``prompt + target`` is stripped, too."""
    stripped = strip_text(prompt)
    return stripped, tuple(strip_text(prompt + target)[len(stripped) :] for target in targets)


def with_demonstrations(example: Example, demonstrations: Sequence[str]) -> Example:
    """Return the example with solved rows in front of its prompt (in-context learning).

    References:
        The rule of Malladi et al. 2023, arXiv:2305.17333: demonstrations stripped of all white space, joined by two
        newlines.
    """
    block = SEPARATOR.join(text.strip() for text in demonstrations).strip()
    if not block:
        return example
    offset = len(block) + len(SEPARATOR)
    span = example.shortened
    return replace(
        example,
        prompt=block + SEPARATOR + example.prompt,
        shortened=None if span is None else (span[0] + offset, span[1] + offset),
    )
