"""The user's own rows through `foretune train` and `evaluate`: every kind of answer, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from foretune.cli.main import main
from foretune.cli.train import parse

DATA_PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
REVIEWS = [(f"the film is {'great' if index % 2 else 'bad'} {index}", index % 2) for index in range(40)]
RUN = "--device cpu --steps 2 --eval-steps 2 --batch-size 4 --lr 1e-3 --max-length 64"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Rows in the current folder; a data folder that has nothing to do with them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORETUNE_DATA", str(tmp_path / "elsewhere"))
    (tmp_path / "reviews.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS))
    answers = [
        {"q": text, "a": ["No", "Yes"][label], "ends": ["bad", "good"], "label": label} for text, label in REVIEWS
    ]
    chats = [
        {"turns": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}
        for row in answers
    ]
    for name, rows in (("answers", answers), ("chats", chats)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def chat_model(tiny_model, tiny_tokenizer, tmp_path):
    """The tiny model with a tokenizer that has a chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path / "chat-model")
    tokenizer.save_pretrained(tmp_path / "chat-model")
    return tmp_path / "chat-model"


def run(model, *words):
    """Train, evaluate the result on the same rows, and return what both wrote."""
    assert main(["train", "--model", str(model), "--output", "run", *RUN.split(), *words]) == 0
    again = ["evaluate", "--model", "run", "--output", "again.json", "--device", "cpu", "--max-length", "64", *words]
    assert main(again) == 0
    return read("run/results.json"), read("again.json")


def read(name):
    return json.loads(Path(name).read_text())


def test_label_words_from_a_csv_file(tiny_model):
    words = ["--data", "reviews.csv", "--prompt", "{text} It was {label}", "--label-words", "0=terrible", "1=great"]
    results, evaluation = run(tiny_model, *words)
    assert results["task"] == "reviews"
    assert results["num_rows"] == {"train": 26, "dev": 6, "eval": 8}
    assert results["metrics"]["final"] == pytest.approx(evaluation["metrics"]["model"])
    assert results["config"]["label_words"] == ["0=terrible", "1=great"]
    before = (results["metrics"]["zero_shot"], results["num_rows"])
    assert main(["train", "--model", str(tiny_model), "--output", "run", *RUN.split(), *words, "--resume"]) == 0
    Path("reviews.yaml").write_text(
        'data: reviews.csv\nprompt: "{text} It was {label}"\nlabel_words: {0: terrible, 1: great}\n'
    )
    assert main(["train", "--model", str(tiny_model), "--output", "other", *RUN.split(), "--task", "reviews.yaml"]) == 0
    same = read("other/results.json")
    assert (same["metrics"]["zero_shot"], same["num_rows"]) == before


def test_candidates_of_the_row(tiny_model):
    words = ["--data", "answers.jsonl", "--prompt", "{q} It was {label}", "--candidates", "{ends}"]
    results, evaluation = run(tiny_model, *words)
    assert results["objective"] == "lm"
    assert set(results["metrics"]["final"]) == {"accuracy", "loss"}
    assert results["metrics"]["final"] == pytest.approx(evaluation["metrics"]["model"])


def test_a_completion_with_a_newline_in_the_prompt(tiny_model):
    words = ["--data", "answers.jsonl", "--prompt", r"Q: {q}\nA:", "--completion", " {a}", "--max-new-tokens", "4"]
    results, evaluation = run(tiny_model, *words)
    assert set(results["metrics"]["final"]) == {"f1", "exact_match", "rouge_l", "loss"}
    assert results["metrics"]["final"] == pytest.approx(evaluation["metrics"]["model"])
    assert results["metrics"]["majority"] == {}


def test_plain_text(tiny_model):
    results, evaluation = run(tiny_model, "--data", "reviews.csv", "--completion", "{text}")
    assert set(results["metrics"]["final"]) == {"loss"}
    assert results["metrics"]["final"] == pytest.approx(evaluation["metrics"]["model"])


def test_conversations(chat_model):
    results, evaluation = run(chat_model, "--data", "chats.jsonl", "--messages", "turns", "--metric", "loss")
    assert set(results["metrics"]["final"]) == {"loss"}
    assert results["metrics"]["final"] == pytest.approx(evaluation["metrics"]["model"])


def test_the_loss_of_plain_text_is_that_of_all_its_tokens(tiny_model):
    """Oracle: the tokens' mean negative log-probability in plain PyTorch, end-of-text included."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    Path("one.jsonl").write_text(json.dumps({"text": "the film is great and the music is wonderful"}) + "\n")
    words = ["--data", "one.jsonl", "--completion", "{text}", "--output", "one.json", "--device", "cpu"]
    assert main(["evaluate", "--model", str(tiny_model), *words]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = tokenizer("the film is great and the music is wonderful")["input_ids"] + [tokenizer.eos_token_id]
    ids = torch.tensor([ids])
    with torch.no_grad():
        expected = model(ids, labels=ids).loss
    assert read("one.json")["metrics"]["model"]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_list_takes_all_words_up_to_the_next_option():
    config = parse(["--model", "m", "--label-words", "0=a b", "1=c", "--data", "d", "--output", "o"])
    assert config.label_words == ["0=a b", "1=c"]
    assert parse(["--model", "m", "--output", "o"]).label_words is None


def test_the_example_of_the_data_page_runs(tiny_model):
    """The table, as long as a run needs, the command and the task file, as they stand in docs/data.md."""
    blocks = dict(re.findall(r"```(csv|bash|yaml)\n(.*?)```", DATA_PAGE.read_text(), re.DOTALL)[::-1])  # the first ones
    header, *rows = blocks["csv"].splitlines()
    Path("reviews.csv").write_text("\n".join([header, *rows * 12]) + "\n")
    words = shlex.split(
        blocks["bash"].replace("\\\n", "").replace("facebook/opt-125m", str(tiny_model)).replace("1000", "2")
    )[1:]
    assert main([*words, "--device", "cpu", "--batch-size", "4"]) == 0
    Path("reviews.yaml").write_text(blocks["yaml"])
    words = [
        "evaluate",
        "--model",
        "runs/reviews",
        "--task",
        "reviews.yaml",
        "--output",
        "again.json",
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    assert read("again.json")["metrics"]["model"] == pytest.approx(
        read("runs/reviews/results.json")["metrics"]["final"]
    )
