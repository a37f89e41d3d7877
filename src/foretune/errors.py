"""The exceptions a user can meet, under one root, and the helper that words near misses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ForetuneError(Exception):
    """Root of every error this package raises on purpose."""


class UsageError(ForetuneError, ValueError):
    """An option, argument or input file is wrong; the message names it, the value and what would be right."""


class IncompatibleError(ForetuneError, ValueError):
    """Two parts, or a part and a model, cannot work together; the message says why."""


class DivergedError(ForetuneError, ArithmeticError):
    """A run gets worse and worse, and is ended; the message says by what that was seen."""


class NonFiniteLossError(DivergedError):
    """Too many steps in a row returned a nan or infinite loss; the parameters are at the last good step."""


class JournalError(ForetuneError):
    """A journal cannot be read, or does not belong to this run."""


class CheckpointError(ForetuneError):
    """A file of a run's folder cannot be read or written."""


class LedgerError(ForetuneError):
    """The ledger of runs cannot be read or written."""


class HubError(ForetuneError):
    """The Hugging Face hub cannot be reached, or refuses what is asked of it."""


class TrackerError(ForetuneError):
    """A tracker cannot be reached, or refuses a run."""


class PrunedError(ForetuneError):
    """A run was ended before its last step because it is not worth going on with; raised by what watches it."""


def message_of(error: BaseException) -> str:
    """Return the words of an exception in one line, its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line_of(error: BaseException) -> str:
    """Return the first line of an exception's words, its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def in_one_line(error: BaseException) -> str:
    """Return the kind and the words of an exception, without a line break or a full stop."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def near_misses(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean: a, b? Available: a, b, c.`` for an unknown `word` (the first part only if close)."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.55)
    hint = f" Did you mean: {', '.join(close)}?" if close else ""
    return f"{hint} Available: {', '.join(names)}."
