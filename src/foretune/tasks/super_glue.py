"""Where the tasks of SuperGLUE (Wang et al. 2019, arXiv:1905.00537) are on the hub."""

from __future__ import annotations

from foretune.tasks.base import CONVERTED, HubSource


def super_glue(config: str) -> tuple[HubSource, ...]:
    """Return the sources of one of its tasks; the last is an old id that redirects."""
    return (
        HubSource("aps/super_glue", config),
        HubSource("aps/super_glue", config, revision=CONVERTED),
        HubSource("super_glue", config),
    )
