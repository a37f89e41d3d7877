"""The journal: a run as the scalars that decide it, from which everything else is regenerated."""

from foretune.journal.header import check_header
from foretune.journal.reader import Journal
from foretune.journal.record import FORMAT_VERSION, EvaluationRecord, Record, RollbackRecord, StepRecord
from foretune.journal.replay import replay
from foretune.journal.weights import hash_weights
from foretune.journal.writer import JournalWriter

__all__ = [
    "FORMAT_VERSION",
    "EvaluationRecord",
    "Journal",
    "JournalWriter",
    "Record",
    "RollbackRecord",
    "StepRecord",
    "check_header",
    "hash_weights",
    "replay",
]
