"""Texts and classes of the prompts for masked language models."""

from __future__ import annotations

import pytest

from foretune.tasks import get_task
from foretune.tasks.masked import MaskedTemplate, Sentence, inferred_sentence, judged_sentence, paired_sentences

PAIR = ("A man sleeps.", "The man is awake.")
PAIR_TEXT = "A man sleeps?<mask>, the man is awake."


def text(template: MaskedTemplate, row) -> str:
    return template.example(row).text()


@pytest.mark.parametrize("task", ["snli", "mnli"])
@pytest.mark.parametrize(("label", "word"), [(0, "Yes"), (1, "Maybe"), (2, "No")])
def test_inference_of_three_classes(task, label, word):
    row = {"premise": PAIR[0], "hypothesis": PAIR[1], "label": label}
    example = get_task(task).masked.example(row, "row 3")
    assert example.text() == PAIR_TEXT
    assert example.label_words == ("No", "Yes", "Maybe")  # contradiction, entailment, neutral
    assert example.label_words[example.correct[0]] == word
    assert example.name == "row 3"


def test_limits_of_inference():
    """The first sentence of mnli is cut to 240 of 256 tokens, that of snli only where the whole is too long."""
    for task, limit in (("snli", None), ("mnli", 240)):
        template = get_task(task).masked
        assert (template.before[0].limit, template.max_length) == (limit, 256)


@pytest.mark.parametrize(
    ("label", "question", "word"),
    [
        (0, "What does NASA stand for ?", "Expression"),
        (1, "What metal is heaviest ?", "Entity"),
        (2, "What is an atom ?", "Description"),
        (3, "Who built it ?", "Human"),
        (4, "Where is Oslo ?", "Location"),
        (5, "How far is it ?", "Number"),
    ],
)
def test_questions(label, question, word):
    example = get_task("trec").masked.example({"text": question, "coarse_label": label})
    assert example.text() == f"<mask>: {question}"
    assert example.label_words == ("Description", "Entity", "Expression", "Human", "Location", "Number")
    assert example.label_words[example.correct[0]] == word


@pytest.mark.parametrize(
    ("task", "words", "limit"),
    [("sst2", ("terrible", "great"), None), ("sst5", ("terrible", "bad", "okay", "good", "great"), 110)],
)
def test_reviews(task, words, limit):
    task = get_task(task)
    field = "sentence" if task.name == "sst2" else "text"
    for label, word in enumerate(words):
        example = task.masked.example({field: "a quiet film that earns its tears ", "label": label})
        assert example.text() == "a quiet film that earns its tears It was<mask>."
        assert example.label_words[example.correct[0]] == word
    assert (example.label_words, example.before[0].limit, task.masked.max_length) == (words, limit, 128)


@pytest.mark.parametrize(("label", "word"), [(0, "Yes"), (1, "No")])
def test_inference_of_two_classes(label, word):
    template = get_task("rte").masked
    example = template.example({"premise": PAIR[0], "hypothesis": PAIR[1], "label": label})
    assert example.text() == PAIR_TEXT
    assert example.label_words == ("Yes", "No")  # entailment, not_entailment
    assert example.label_words[example.correct[0]] == word
    assert (template.before[0].limit, template.max_length) == (240, 256)


def test_trec_rows_at_hand_ask_for_what_their_class_says(real_data_dir):
    from foretune.data.loading import load_split

    task = get_task("trec")
    beginnings = {"How far": "Number", "How many": "Number", "Who ": "Human"}
    seen = set()
    for row in load_split(task, "train", real_data_dir).rows:
        for beginning, word in beginnings.items():
            if row["text"].startswith(beginning):
                seen.add((beginning, task.masked.label_words[task.masked.class_of(row)] == word))
    assert {(beginning, True) for beginning in beginnings} <= seen
    assert ("How far", False) not in seen


def test_judged_sentence():
    template = judged_sentence("sentence", " It was", ("terrible", "great"))
    example = template.example({"sentence": "a quiet film that earns its tears ", "label": 1})
    assert example.text() == "a quiet film that earns its tears It was<mask>."
    assert example.correct == (1,)
    assert [piece.may_be_cut for piece in (*example.before, *example.after)] == [True, False, False]


def test_inferred_sentence():
    template = inferred_sentence("question", "sentence", ("Yes", "No"), max_length=128)
    row = {"question": "Who built it?", "sentence": "It was built by Ada.", "label": 0}
    assert text(template, row) == "Who built it?<mask>, it was built by Ada."
    assert template.label_words[template.class_of(row)] == "Yes"


def test_paired_sentences():
    row = {"question1": "Is it far?", "question2": "How far is it?", "label": 1}
    template = paired_sentences("question1", "question2")
    assert text(template, row) == "Is it far?<mask>, how far is it?"
    assert template.label_words[template.class_of(row)] == "Yes"


@pytest.mark.parametrize(
    ("sentence", "written"),
    [
        (Sentence("s"), "It rained in Oslo"),
        (Sentence("s", follows=True), " It rained in Oslo"),
        (Sentence("s", follows=True, lowers_first=True), " it rained in Oslo"),
        (Sentence("s", drops_last=True), "It rained in Oslo"),  # the space is the last character
    ],
)
def test_rules_of_a_sentence(sentence, written):
    assert sentence.text({"s": "It rained in Oslo "}) == written


def test_the_last_character_is_dropped_whatever_it_is():
    assert Sentence("s", drops_last=True).text({"s": "it was 42"}) == "it was 4"


def test_an_empty_sentence_needs_no_space():
    assert Sentence("s", follows=True, lowers_first=True).text({"s": " "}) == ""


def test_rows_without_agreement_are_not_usable():
    task = get_task("snli")
    row = {"premise": "a", "hypothesis": "b", "label": -1}
    task.check_row(row, "row")
    assert not task.is_usable(row)
    assert task.is_usable({**row, "label": 2})
