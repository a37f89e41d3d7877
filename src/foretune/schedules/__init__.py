"""Which tensors move at which step."""

from foretune.schedules.whole import Whole

__all__ = ["Whole"]
