"""Workers of one study should run the same code: which version of foretune each has."""

from __future__ import annotations

import hashlib
import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path

import foretune
from foretune.errors import UsageError
from foretune.sweeps.study import Study

logger = logging.getLogger(__name__)

_NAME = "code"


@cache
def code_version() -> str:
    """Return the version, and a digest of the package's modules: a checkout changes while its version does not."""
    root = Path(foretune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('foretune')} ({digest.hexdigest()[:8]})"


def check_code(study: Study, *, any_code: bool) -> None:
    """Compare this process's code with that of the study's workers, and record it.

    Args:
        study: The study.
        any_code: Whether another one will do.
    Raises:
        UsageError: it is another one.
    """
    known: list[str] = study.attribute(_NAME) or []
    mine = code_version()
    if mine in known:
        return
    if known and not any_code:
        raise UsageError(
            f"Study {study.name} is run by foretune {', '.join(known)}, and this is {mine}: its trials could not be "
            "compared. Install that version, or begin another --study; --any-code goes on all the same and records it."
        )
    if known:
        logger.warning("Study %s is run by foretune %s, and now by %s.", study.name, ", ".join(known), mine)
    study.set_attribute(_NAME, [*known, mine])
