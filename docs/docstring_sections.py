"""Lets the site's reference read our docstrings, whose sections follow each other without blank lines."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_SECTION = re.compile(r"(?m)^(?=(?:Args|Attributes|Keys|Raises|References|Returns|Yields)[^\n:]*:$)")


class SectionsApart(Extension):
    """Puts an empty line in front of every section, where the reader of the Google style asks for one."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Change the docstring of one object as it is in memory."""
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub("\n", obj.docstring.value)
