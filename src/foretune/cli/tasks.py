"""`foretune tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from foretune.cli.options import Options
from foretune.runs.preview import PreviewConfig, preview

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from foretune.runs.preview import Preview, TokenSequence


def run(arguments: Sequence[str]) -> None:
    """List the tasks, or show a row of one as a model reads it."""
    words = list(arguments)
    name = words.pop(0) if words and not words[0].startswith("-") else None
    description = "List the tasks, or show a row of one: foretune tasks NAME --model MODEL."
    config = Options("tasks", description, PreviewConfig).parse([*words, *(["--name", name] if name else [])])
    config.check()
    if config.name is None:
        _print_list()
        return

    from foretune.cli.display import quiet_libraries

    quiet_libraries()
    _print_preview(preview(config))


def _print_list() -> None:
    from foretune.cli.tables import print_table
    from foretune.tasks.catalogue import entries

    columns = ("name", "what", "kind", "candidates", "metric", "objective", "templates", "masked", "train/dev/test")
    rows = []
    for entry in entries():
        task = entry.task
        masked = "no" if entry.masked_prompt is None else "yes"
        figures = (task.metric, task.objective, ", ".join(entry.templates) or "-", masked, entry.num_rows)
        rows.append((task.name, task.summary, entry.kind, entry.candidates or "-", *figures))
    print_table("Tasks (foretune tasks NAME shows a row of one; the first template is the default)", columns, rows)


def _print_preview(shown: Preview) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    console.print(Text(f"{shown.row_name}, template {shown.template}, of {shown.origin}"))
    _section(console, "Prompt", Text(shown.prompt))
    if shown.answers:
        _section(console, "Target", _quoted(shown.candidates[0]))
        _section(console, "References", Text("\n").join(map(_quoted, shown.answers)))
    else:
        lines = [
            Text(f"{index}  ").append(_quoted(text)).append("   right" if index in shown.correct else "")
            for index, text in enumerate(shown.candidates)
        ]
        _section(console, "Candidates" if shown.template != "masked" else "Words at the mask", Text("\n").join(lines))
    if shown.calibration is not None:
        prompt, options = shown.calibration
        same = options == shown.candidates
        listed = Text("the same candidates") if same else Text(", ").join(map(_quoted, options))
        _section(console, "Calibration", _quoted(prompt).append(", followed by ").append(listed))
    if shown.sequences:
        _section(console, _tokens_title(shown), Text("\n").join(_token_lines(shown)))
    console.print()
    console.print(Text(f"Objective: {shown.objective}; metric: {shown.task.metric}"))


def _section(console: Console, title: str, body: Text) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(f"{title}:", style="bold"))
    console.print(body)


def _quoted(text: str) -> Text:
    from rich.text import Text

    return Text('"' + text.replace("\n", "\\n") + '"')


def _tokens_title(shown: Preview) -> str:
    longest = max(sequence.length for sequence in shown.sequences)
    cut = f"{shown.num_cut} more did not fit and are cut" if shown.num_cut else "nothing is cut"
    if shown.num_cut and shown.shortened is not None:
        cut += f", first of {shown.shortened[:40]!r}..."
    return f"Tokens (up to {longest}; at most {shown.max_length} fit; {cut}; [[scored]])"


def _token_lines(shown: Preview) -> list[Text]:
    """The right candidate's sequence in full; of the others, which share its context, the option alone."""
    right = shown.correct[0]
    if len(shown.sequences) == 1:
        return [_marked(shown.sequences[0])]
    return [
        _marked(sequence, start=f"{index}  ", whole=index == right) for index, sequence in enumerate(shown.sequences)
    ]


def _marked(tokens: TokenSequence, *, start: str = "", whole: bool = True) -> Text:
    from rich.text import Text

    line = Text(start).append(" ".join(tokens.before) if whole else f"... {len(tokens.before)} tokens ...")
    line.append(" ").append(f"[[{' '.join(tokens.scored)}]]", style="bold reverse")
    return line.append(f" {' '.join(tokens.after)}" if tokens.after else "")
