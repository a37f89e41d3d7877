"""What the rows of rows.json, invented ones in the hub's shape, look like to a model: one text file a task.

A changed prompt is a changed experiment: a difference is a new template version. After a change that is meant,
record anew with ``python tests/golden/tasks/record.py`` and read the difference.
"""

import json
from pathlib import Path

from foretune.tasks import GenerationTask, get_task
from foretune.tasks.prompts import with_demonstrations

HERE = Path(__file__).parent
ROWS = json.loads((HERE / "rows.json").read_text(encoding="utf-8"))


def rendered(name):
    """Return both rows of a task with each of its templates, the second after the first as a demonstration."""
    task = get_task(name)
    first, second = ROWS[name]
    parts = []
    for version in task.templates:
        template = task.template(version)
        shown = with_demonstrations(task.example(second, template), [task.demonstration(first, template)])
        parts.append(_block(f"{name} {version}", task, first, template, task.example(first, template)))
        parts.append(_block(f"{name} {version}, one demonstration", task, second, template, shown))
    return "\n".join(parts)


def _block(title, task, row, template, example):
    """Write one example. Text stands between bars, so that spaces and newlines at its ends show."""
    lines = [f"== {title}", *_bars(example.prompt)]
    for index, option in enumerate(example.candidates):
        lines += [f"-- option {index}{', right' if index in example.correct else ''}", *_bars(option)]
    if example.ends_text:
        lines.append("-- end of text")
    if example.shortened:
        lines += ["-- cut first", *_bars(example.prompt[slice(*example.shortened)])]
    if example.answers:
        lines.append(f"-- answers {json.dumps(example.answers, ensure_ascii=False)}")
    if not isinstance(task, GenerationTask):
        calibration = task.calibration(row, template)
        lines += ["-- calibration", *_bars(calibration.prompt)]
        lines.append(f"-- options {json.dumps(calibration.candidates, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _bars(text):
    return [f"|{line}|" for line in text.split("\n")]


if __name__ == "__main__":
    for name in ROWS:
        (HERE / f"{name}.txt").write_text(rendered(name), encoding="utf-8")
