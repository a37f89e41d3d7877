"""The ledger of runs: what ran, with which settings, at what cost, and what came of it."""

from foretune.ledger.filters import Condition, check_names, look_up, select
from foretune.ledger.location import find_existing_ledger, find_ledger
from foretune.ledger.run import Point, Run, Status, new_id, now
from foretune.ledger.store import Ledger

__all__ = [
    "Condition",
    "Ledger",
    "Point",
    "Run",
    "Status",
    "check_names",
    "find_existing_ledger",
    "find_ledger",
    "look_up",
    "new_id",
    "now",
    "select",
]
