"""What pages show is what works. Each page is played from top to bottom in a folder of its own.

- Blocks name their language: bash, python, json, csv, yaml; `text` is for what is no input. Blocks of bash hold
  commands of the programs in `PROGRAMS`, one a line.
- A block below a paragraph that names a file of its kind (`reviews.csv`) is written to that file.
- Blocks of Python are run, one after the other, with the names of the page so far; `model` and `rows` are given.
- Commands of foretune are run, with `facebook/opt-125m` as a tiny model and two steps, but for those that are only
  parsed: by the command's own options, which refuse what the command would refuse. That is the case for what has a
  placeholder (`...`, a word in capitals), and for what `ONLY_PARSED` names with the reason.
- Of other programs is checked that they find what they name: a target, an extra, a file.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from foretune.cli.main import main
from foretune.cli.options import Options
from pages import DOCS, MODEL, PAGES, PROGRAMS, ROOT, SMALL, Block, all_blocks, blocks, name, words

ONLY_PARSED = {
    "bench": "minutes",
    "data fetch": "reads the hub",
    "demo": "seconds; tests/cli/test_demo.py runs it",
    "estimate": "seconds a shape; tests/cli/test_memory.py runs it",
    "runs import": "needs the logs of another program",
    "sweep work": "needs a study; tests/cli/test_sweep.py runs it",
    "sweep status": "needs a study; tests/cli/test_sweep.py runs it",
}
PLAYED_ELSEWHERE = {
    "docs/add-a-method.md": "tests/cli/test_add_a_method.py",  # its code joins registries, which are global
}
FILLERS = {"train": f"--model {MODEL} --output o", "migrate": "--model_name=facebook/opt-1.3b --learning_rate=1e-6"}
"""What `...` may stand for."""
PLACEHOLDER = re.compile(r"(?<![\w./=-])(\.\.\.|[A-Z][A-Z_]+)(?![\w./=-])")


class ParsedError(Exception):
    """A command has read its options and found nothing wrong."""


@pytest.fixture
def only_parse(monkeypatch):
    """Function that takes a command as far as its options."""
    parse = Options.parse

    def stop(self: Options, *args: Any) -> Any:
        config = parse(self, *args)
        if hasattr(config, "check"):
            config.check()
        raise ParsedError

    def run(arguments: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Options, "parse", stop)
            with pytest.raises(ParsedError):
                assert main(arguments) == 0

    return run


def only_parsed(command: str) -> bool:
    """Say whether a command of foretune is not run."""
    text = command.partition(" ")[2]
    return bool(PLACEHOLDER.search(text)) or any(f"{text} ".startswith(f"{key} ") for key in ONLY_PARSED)


def play(command: str, only_parse) -> None:
    """Run one command of foretune as the rule says."""
    _, verb, *_ = words(command)
    arguments = words(command.replace("...", FILLERS.get(verb, "")))[1:]
    if verb == "migrate":
        if not arguments[1].endswith((".sh", ".yml")):  # such a file is theirs
            assert main(arguments) == 0
        return
    if only_parsed(command):
        only_parse(arguments)
        return
    if verb == "train":
        assert {MODEL, "--config"} & {*arguments}, f"give {MODEL}, or a placeholder"
        output = Path(arguments[arguments.index("--output") + 1])
        if "--resume" not in arguments and output.exists():
            shutil.rmtree(output.parent)  # with the ledger, so that its name is that of one run
        arguments += SMALL.split()
    if verb == "probe":
        arguments += [*SMALL.split(), "--trial-steps", "2", "--lr", "0.01"]
    if verb == "evaluate":
        arguments += ["--num-eval", "4", "--max-length", "60", "--device", "cpu"]
    if verb == "sweep" and arguments[1] != "suites":
        arguments.append("--dry-run")
    assert main(arguments) == 0, command


def file_of(block: Block) -> str | None:
    """Return the file that the paragraph above a block names, if it is of the block's kind."""
    above = "\n".join(block.page.read_text().split("\n")[: block.line - 1]).rstrip().rpartition("\n\n")[2]
    endings = {"csv": "csv", "json": "jsonl", "yaml": "ya?ml", "python": "py"}
    named = re.findall(rf"`([\w-]+\.{endings.get(block.language, '-')})`", above)
    return named[-1] if named else None


def enough_rows(block: Block) -> str:
    """Return the text of a block; of rows as many as a run needs."""
    if block.language == "csv":
        header, *rows = block.text.splitlines()
        return "\n".join([header, *rows * 15]) + "\n"
    return block.text * (15 if block.language == "json" else 1)


PLAYED = [page for page in PAGES if any(b.language in ("bash", "python") for b in blocks(page))]


@pytest.mark.parametrize("page", PLAYED, ids=name)
def test_a_page_does_what_it_says(page, stage, only_parse, monkeypatch):
    monkeypatch.syspath_prepend(stage)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if file := file_of(block):
            Path(file).write_text(enough_rows(block))
        elif block.language == "python" and name(page) not in PLAYED_ELSEWHERE:
            names = names or taken_for_granted()
            exec(compile(shortened(block.text), block.place, "exec"), names)
        elif block.language == "bash":
            for command in block.commands:
                if command.startswith("foretune "):
                    play(command, only_parse)


def taken_for_granted() -> dict[str, Any]:
    """Return the names that pages use without making them: a model, and rows as a Trainer takes them."""
    from transformers import AutoModelForCausalLM

    ids = list(range(4, 12))
    return {"model": AutoModelForCausalLM.from_pretrained(MODEL), "rows": [{"input_ids": ids, "labels": ids}] * 4}


def shortened(code: str) -> str:
    """Return the code with fewer steps."""
    return re.sub(r"(?<=range\()\d{3,}(?=\))|(?<=max_steps=)\d+", "2", code)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_a_language_that_is_checked(page):
    for block in blocks(page):
        assert block.language in {"bash", "python", "json", "csv", "yaml", "text"}, block.place
        if block.language == "yaml":
            yaml.safe_load(block.text)
        if block.language == "bash":
            for command in block.commands:
                assert command.split()[0] in PROGRAMS, f"{block.place}: {command}"


def test_other_programs_find_what_they_name():
    makefile = (ROOT / "Makefile").read_text()
    extras = re.findall(
        r"(?m)^(\w+) = \[", (ROOT / "pyproject.toml").read_text().partition("optional-dependencies]")[2]
    )
    for block in all_blocks("bash"):
        for program, *rest in map(words, block.commands):
            if program == "make":
                assert f"\n{rest[0]}:" in makefile, block.place
            if program == "pip":
                assert rest[0] == "install", block.place
                assert all(extra in extras for part in rest for extra in re.findall(r"\[(\w+)\]", part)), block.place
            if program == "python":
                script = (ROOT / rest[0]).read_text()
                assert all(f'"{option}"' in script for option in rest if option.startswith("--")), block.place


def test_pages_that_are_played_elsewhere_are():
    for page, test in PLAYED_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()
    assert DOCS / "add-a-method.md" in PLAYED


def test_the_home_page_says_what_the_readme_says():
    """The sentence, the number, the eight lines and the command are written twice, with other links."""
    readme, home = (ROOT / "README.md").read_text(), (DOCS / "index.md").read_text()
    bold = re.search(r"(?s)\*\*.*?\)\)?\.\n\n", home)[0]
    assert bold.replace("(performance", "(docs/performance") in readme
    assert [b.text for b in blocks(DOCS / "index.md")] == [b.text for b in blocks(ROOT / "README.md")][:3]
