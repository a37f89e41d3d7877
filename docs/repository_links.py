"""Names on the site what lies beside it in the repository: links to that work only where a page is read there."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]*)\)")


def on_page_markdown(markdown: str, *, page: Page, **kwargs: Any) -> str:
    """Turn links to what is outside of the folder of pages into their text."""

    def named(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[2]))
        return f"`{link[1].strip('`')}`" if target.startswith("..") else link[0]

    return _LINK.sub(named, markdown)
