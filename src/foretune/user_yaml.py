"""YAML that a user wrote: no key stands twice unnoticed, and what is wrong is said in one line, with its place."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from foretune.errors import UsageError


def read_text(path: str | Path, place: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        place: What messages call it.
    Raises:
        UsageError: it cannot be opened, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{place} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def parse_yaml(text: str, place: str, *, as_text: bool = False) -> Any:
    """Return the content of a YAML text.

    Args:
        text: YAML.
        place: What messages call it.
        as_text: Leave scalars the text they are: No, 01.
    Raises:
        UsageError: it is not YAML, or has a key twice in one mapping.
    """
    try:
        return yaml.load(text, _TextLoader if as_text else _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join((error.problem or error.context or "").split())
        hint = ". Indent with spaces, not tabs" if "'\\t'" in problem else ""
        raise UsageError(f"{place}: not YAML: {where}{problem}{hint}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{place}: not YAML: {' '.join(str(error).split())}.") from None


def read_yaml(path: str | Path, place: str, *, as_text: bool = False) -> Any:
    """Return the content of a YAML file; arguments and errors as `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path, place), place, as_text=as_text)


def kind_of(content: Any) -> str:
    """Say in a word what YAML content is, where something else was expected."""
    kinds = {type(None): "nothing", list: "a list", dict: "a mapping", str: "a text"}
    return kinds.get(type(content), f"{content!r:.60}")


class _UniqueKeys(yaml.constructor.BaseConstructor):
    """A constructor that refuses a mapping with a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the loader, with keys checked."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Loader(_UniqueKeys, yaml.SafeLoader):
    """Scalars become what YAML says."""


class _TextLoader(_UniqueKeys, yaml.BaseLoader):
    """Scalars stay text."""
