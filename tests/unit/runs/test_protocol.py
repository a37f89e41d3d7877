from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.runs.config import EvaluateConfig
from foretune.runs.protocol import choose_objective, make_protocol
from foretune.tasks import GenerationTask, Template, get_task
from model_zoo import opt


@pytest.fixture
def writing():
    return GenerationTask(
        name="writing",
        summary="a question and its answer",
        fields={"question": str, "answer": str},
        templates={"v0": Template(prompt=lambda row: f"{row['question']}\nAnswer:")},
        references=lambda row: (row["answer"],),
    )


def test_the_task_s_own_objective_is_the_default(writing):
    assert choose_objective(get_task("sst2"), None).name == "classification"
    assert choose_objective(writing, None).name == "lm"


def test_a_metric_is_an_objective(writing):
    assert choose_objective(get_task("sst2"), "accuracy").metric.name == "accuracy"
    assert choose_objective(writing, "f1").metric.name == "f1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("classification", "--objective classification: task 'writing' is answered by free text"),
        ("accuracy", "--objective accuracy is of candidates, and task 'writing' is answered by free text"),
        ("f2", "--objective f2: there is no such metric.*Available: accuracy, exact_match, f1"),
    ],
)
def test_objectives_that_make_no_sense_for_free_text_are_refused(writing, name, message):
    with pytest.raises(UsageError, match=message):
        choose_objective(writing, name)


def test_a_metric_of_texts_is_refused_for_candidates():
    with pytest.raises(UsageError, match="--objective f1 is of generated texts, and task 'sst2' chooses among"):
        choose_objective(get_task("sst2"), "f1")


def test_a_tokenizer_of_another_model_is_refused_and_unused_special_tokens_are_not(make_tokenizer):
    tokenizer, task = make_tokenizer(bos=True), get_task("sst2")
    num_words = max(tokenizer.get_vocab().values()) + 1
    config = EvaluateConfig(model="mine", task="sst2")
    fitting, small = opt(vocab_size=num_words), opt(vocab_size=num_words - 1)
    with pytest.raises(UsageError, match=f"--model mine: .* ids up to {num_words - 1} .* {num_words - 1} embeddings"):
        make_protocol(config, task, choose_objective(task, None), "causal", small, tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert len(tokenizer) == num_words + 1
    make_protocol(config, task, choose_objective(task, None), "causal", fitting, tokenizer)
