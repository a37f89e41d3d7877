"""The ledger of runs: what ran, with which settings, at what cost, and what came of it."""

from foretune.ledger.filters import Condition, look_up, select
from foretune.ledger.run import Point, Run, Status, new_id, now
from foretune.ledger.store import Ledger

__all__ = ["Condition", "Ledger", "Point", "Run", "Status", "look_up", "new_id", "now", "select"]
