"""The site: every page has a place in its navigation, every public name in its reference, and it needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

import foretune
from foretune.methods import METHODS
from pages import DOCS, PAGES, ROOT, SITE, SITE_PAGES, name, prose_of


def places(entries: list) -> Iterator[str]:
    """Yield the pages of a navigation in order."""
    for entry in entries:
        (target,) = entry.values()
        if isinstance(target, str):
            yield target
        else:
            yield from places(target)


def test_every_page_is_in_the_navigation_once():
    listed = list(places(SITE["nav"]))
    pages = [page.relative_to(DOCS).as_posix() for page in SITE_PAGES]
    assert sorted(listed) == pages, "add the page to nav in mkdocs.yml, where a newcomer would look for it"


def test_the_reference_has_every_public_name():
    """Optimizers of methods are described in docs/methods.md."""
    reference = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    described = set(re.findall(r"^::: [\w.]*\.(\w+)$", reference, re.MULTILINE))
    methods = {METHODS.get(method).class_name for method in METHODS}
    public = {name for name in dir(foretune) if name[:1].isupper()} - methods - {"TYPE_CHECKING", "Any"}
    assert public <= described
    assert all(f"`{name}`" in (DOCS / "methods.md").read_text() for name in methods)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_of_pages_lead_somewhere(page):
    """As they are read in the repository; those of the site are checked by its builder too."""
    for link in re.findall(r"\]\(([^)#\s]+)", prose_of(page)):
        assert link.startswith("https://") or (page.parent / link).exists(), link


class Fetched(HTMLParser):
    """Collects what a browser fetches by itself; links that a reader follows are none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.addresses += [value for key, value in attrs if key in ("src", "srcset", "href", "data") and value]


@pytest.mark.skipif(not importlib.util.find_spec("mkdocs"), reason="the site is built with the extra 'docs': make site")
def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path: Path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) > len(SITE_PAGES)  # the page for wrong addresses is one more
    for page in built:
        parser = Fetched()
        parser.feed(page.read_text())
        assert not [address for address in parser.addresses if "//" in address], page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text()), sheet
    assert not list(tmp_path.rglob("*.py"))
