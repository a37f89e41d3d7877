"""The pages that users read, cut into blocks of code and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
SITE_PAGES = sorted(DOCS.rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *SITE_PAGES]

MODEL = "facebook/opt-125m"
"""The model of the pages. On the stage a folder of this name holds a tiny one."""
SMALL = "--steps 2 --eval-steps 2 --batch-size 2 --num-train 12 --num-dev 4 --num-eval 4 --max-length 60 --device cpu"
"""Put behind every training of a page."""
PROGRAMS = ("foretune", "pip", "make", "python", "export")
_FENCE = re.compile(r"^```(\S*).*\n((?:.*\n)*?)^```$", re.MULTILINE)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a page: its language, its text, and the line where it begins."""

    page: Path
    language: str
    text: str
    line: int

    @property
    def place(self) -> str:
        """Page and line, for the names of tests."""
        return f"{name(self.page)}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The lines of a block of commands, continuations joined, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [" ".join(line.split()) for line in map(_without_comment, lines) if line]


def name(page: Path) -> str:
    """Return the path of a page below the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in order; indented ones that begin with a program are blocks of commands too."""
    text, prose = page.read_text(), prose_of(page)  # of equally many lines
    found = [(text.count("\n", 0, match.start()), match[1], match[2]) for match in _FENCE.finditer(text)]
    for match in _INDENTED.finditer(prose):
        if match[0].split()[0] in PROGRAMS:
            found.append((prose.count("\n", 0, match.start()), "bash", re.sub(r"(?m)^ {4}", "", match[0])))
    for line, language, content in sorted(found):
        yield Block(page, language, content, line + 1)


def prose_of(page: Path) -> str:
    """Return the text of a page with empty lines in place of fenced blocks."""
    return _FENCE.sub(lambda match: re.sub(r"[^\n]", "", match[0]), page.read_text())


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages that are in one of these languages."""
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def words(command: str) -> list[str]:
    """Split a command as a shell does."""
    return shlex.split(command)


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s+)#\s.*$", "", line).strip()
