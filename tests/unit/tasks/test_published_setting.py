"""Where the tasks' rows come from, how many are used, what trains and what is reported; what a row must be like."""

from __future__ import annotations

import json
import re

import pytest

from foretune.data import load_task_data
from foretune.errors import UsageError
from foretune.tasks import GenerationTask, get_task
from foretune.tasks.base import CONVERTED

SUPER_GLUE = "aps/super_glue (%s); aps/super_glue (%s)@refs/convert/parquet; super_glue (%s)"
WINOGRANDE = "winogrande (winogrande_m)"

# name in published code: hub sources, rows for training, dev and test, default template, objective, metric
PUBLISHED = {
    "SST2": ("nyu-mll/glue (sst2); glue (sst2)", (1000, 500, 1000), "v0", "classification", "accuracy"),
    "SST5": ("SetFit/sst5", (1000, 500, 1000), "v0", "classification", "accuracy"),
    "RTE": (SUPER_GLUE.replace("%s", "rte"), (1000, 500, 1000), "v0", "classification", "accuracy"),
    "CB": (SUPER_GLUE.replace("%s", "cb"), (1000, 100, 1000), "v0", "classification", "accuracy"),
    "BoolQ": ("google/boolq; boolq", (1000, 500, 1000), "v2", "classification", "accuracy"),
    "WSC": (SUPER_GLUE.replace("%s", "wsc.fixed"), (1000, 500, 1000), "v0", "classification", "accuracy"),
    "WIC": (SUPER_GLUE.replace("%s", "wic"), (1000, 500, 1000), "v0", "classification", "accuracy"),
    "MultiRC": (SUPER_GLUE.replace("%s", "multirc"), (1000, 500, 1000), "v0", "classification", "accuracy"),
    "Copa": (SUPER_GLUE.replace("%s", "copa"), (1000, 100, 1000), "v0", "lm", "accuracy"),
    "ReCoRD": (SUPER_GLUE.replace("%s", "record"), (1000, 500, 1000), "v0", "lm", "accuracy"),
    "WinoGrande": (
        f"allenai/{WINOGRANDE}; allenai/{WINOGRANDE}@refs/convert/parquet; {WINOGRANDE}",
        (1000, 500, 1000), "v0", "lm", "accuracy",
    ),
    "SQuAD": ("rajpurkar/squad; squad", (1000, 500, 1000), "v0", "lm", "f1"),
    "DROP": ("ucinlp/drop; ucinlp/drop@refs/convert/parquet; drop", (1000, 500, 1000), "v0", "lm", "f1"),
    "DOLLY": ("databricks/databricks-dolly-15k", (2000, 200, 200), "v0", "lm", "rouge_l"),
}  # fmt: skip

SST2 = {"sentence": "fine", "label": 1}
BOOLQ = {"question": "is it", "passage": "It is.", "answer": True}
COPA = {"premise": "It rained.", "choice1": "I ran.", "choice2": "I sang.", "question": "effect", "label": 0}
RECORD = {"passage": "A met B.", "query": "@placeholder left", "entities": ["A", "B"], "answers": ["A"]}
SQUAD = {"title": "T", "context": "It is red.", "question": "Is it?", "answers": {"text": ["red"], "answer_start": [6]}}
DROP = {"passage": "Two and two.", "question": "How many?", "answers_spans": {"spans": ["4"], "types": ["number"]}}
WINOGRANDE_ROW = {"sentence": "A or B, _ won.", "option1": "A", "option2": "B", "answer": "1"}
DOLLY = {"instruction": "Say it.", "context": "", "response": "It.", "category": ""}


@pytest.mark.parametrize("alias", PUBLISHED)
def test_published_setting(alias):
    task = get_task(alias)
    sources, sizes, template, objective, metric = PUBLISHED[alias]
    assert task.name == alias.lower()
    assert "; ".join(map(str, task.sources)) == sources
    assert (task.num_train, task.num_dev, task.num_eval) == sizes
    assert (task.default_template, task.objective, task.metric) == (template, objective, metric)
    assert (task.train_split, task.eval_split) == ("train", "validation")
    assert task.cuts_eval_from_train == (alias == "DOLLY")
    if isinstance(task, GenerationTask):
        assert (task.max_new_tokens, task.stops_at_newline) == ((128, False) if alias == "DOLLY" else (50, True))


def test_converted_datasets_have_a_folder_for_each_configuration():
    plain, converted, _ = get_task("wsc").sources
    assert plain.arguments() == {"path": "aps/super_glue", "name": "wsc.fixed", "revision": None}
    assert converted.arguments() == {"path": "aps/super_glue", "data_dir": "wsc.fixed", "revision": CONVERTED}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("cb", {"premise": "a", "hypothesis": "b", "label": 3}, "field 'label' is 3; task 'cb' has labels 0 to 2."),
        (
            "boolq",
            {"question": "q", "passage": "p"},
            "fields 'answer' (true or false) and 'label' (1 or 0) are both missing.",
        ),
        ("boolq", BOOLQ | {"answer": 1}, "field 'answer' is 1; it should be true or false."),
        (
            "boolq",
            {"question": "q", "passage": "p", "label": -1},
            "field 'label' is -1; it should be 0 (No) or 1 (Yes).",
        ),
        (
            "boolq",
            {"question": "q", "passage": "p", "label": True},
            "field 'label' is True; it should be 0 (No) or 1 (Yes).",
        ),
        ("copa", COPA | {"question": "why"}, "field 'question' is 'why'; it should be 'cause' or 'effect'."),
        ("copa", COPA | {"label": 2}, "field 'label' is 2; it should be 0 (choice1) or 1 (choice2)."),
        (
            "record",
            RECORD | {"query": "he left"},
            "field 'query' is 'he left'; it should have a gap, '@placeholder'.",
        ),
        ("record", RECORD | {"entities": ["A", 2]}, "field 'entities' is ['A', 2]; it should be a list of strings."),
        ("record", RECORD | {"answers": [None]}, "field 'answers' is [None]; it should be a list of strings."),
        (
            "squad",
            SQUAD | {"answers": {"answer_start": [6]}},
            "field 'answers' has no 'text'; it should be a list of strings in it, found 'answer_start'.",
        ),
        (
            "squad",
            SQUAD | {"answers": {"text": "red"}},
            "field 'answers.text' is 'red'; it should be a list of strings.",
        ),
        ("squad", SQUAD | {"answers": ["red"]}, "field 'answers' is ['red']; it should be an object."),
        (
            "drop",
            DROP | {"answers_spans": {"spans": [4]}},
            "field 'answers_spans.spans' is [4]; it should be a list of strings.",
        ),
        (
            "drop",
            DROP | {"answers_spans": {}},
            "field 'answers_spans' has no 'spans'; it should be a list of strings in it, found nothing.",
        ),
        (
            "winogrande",
            WINOGRANDE_ROW | {"sentence": "A won."},
            "field 'sentence' is 'A won.'; it should have exactly one gap, '_'.",
        ),
        (
            "winogrande",
            WINOGRANDE_ROW | {"sentence": "_ or _ won."},
            "field 'sentence' is '_ or _ won.'; it should have exactly one gap, '_'.",
        ),
        ("winogrande", WINOGRANDE_ROW | {"answer": ""}, "field 'answer' is ''; it should be '1' or '2'."),
        ("winogrande", WINOGRANDE_ROW | {"answer": 1}, "field 'answer' is 1; it should be a string."),
        (
            "winogrande",
            WINOGRANDE_ROW | {"option2": "A"},
            "field 'option2' is 'A', as 'option1' is; they should differ.",
        ),
        ("dolly", DOLLY | {"context": None}, "field 'context' is None; it should be a string."),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_with_its_field(name, row, message):
    with pytest.raises(UsageError, match=f"^{re.escape(f'here: {message}')}$"):
        get_task(name).check_row(row, "here")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("record", RECORD | {"answers": ["C"]}),
        ("record", RECORD | {"answers": []}),
        ("squad", SQUAD | {"answers": {"text": [], "answer_start": []}}),
        ("drop", DROP | {"answers_spans": {"spans": [], "types": []}}),
        ("dolly", DOLLY | {"response": " \n"}),
    ],
)
def test_a_row_without_an_answer_is_sound_and_left_out(name, row):
    task = get_task(name)
    task.check_row(row, "here")
    assert not task.is_usable(row)


def test_boolq_tells_its_forms_apart():
    task = get_task("boolq")
    of_super_glue = {"question": "is it?", "passage": "It -- It is.", "label": 1, "idx": 0}
    assert [task.form(BOOLQ), task.form(of_super_glue)] == ["google/boolq", "super_glue"]
    answers = [BOOLQ, BOOLQ | {"answer": False}, of_super_glue, of_super_glue | {"label": 0}]
    assert [task.correct(row) for row in answers] == [(0,), (1,), (0,), (1,)]
    assert task.example(BOOLQ, task.template()).prompt == "It is. Is it?\n"
    assert task.example(of_super_glue, task.template()).prompt == "It -- It is. Is it?\n"


def test_record_ignores_answers_that_are_no_entity_and_finds_repeated_ones():
    row = RECORD | {"entities": ["A", "B", "A"], "answers": ["nobody", "B", "A"]}
    assert get_task("record").correct(row) == (1, 0, 2)


@pytest.mark.parametrize(
    ("choice", "continued"),
    [("He left.", " he left."), ("I left.", " I left."), ("Rain", " rain"), ("I", " I"), ("I'm off.", " i'm off.")],
)
def test_copa_lowers_the_first_word_unless_it_is_i(choice, continued):
    task = get_task("copa")
    assert task.example(COPA | {"choice2": choice}, task.template()).candidates[1] == continued


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("context", ["Response", "in", "Say it.", "two\nlines "])
def test_dolly_shortens_its_context_wherever_else_the_text_stands(version, context):
    task = get_task("dolly")
    example = task.example(DOLLY | {"instruction": "Say it in a Response.", "context": context}, task.template(version))
    start, end = example.shortened
    assert example.prompt[start:end] == context
    assert example.prompt[:start].endswith(":\n")
    assert example.prompt[end:] == "\n\n### Response:\n"


def test_dolly_draws_different_rows_for_training_dev_and_test(tmp_path):
    (tmp_path / "dolly").mkdir()
    rows = [DOLLY | {"response": f"It is {number}."} for number in range(50)]
    (tmp_path / "dolly" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_task_data("dolly", tmp_path, num_train=20, num_dev=10, num_eval=15)
    parts = [{row.row["response"] for row in part} for part in (data.train, data.dev, data.evaluation)]
    assert [len(part) for part in parts] == [20, 10, 15]
    assert len(set.union(*parts)) == 45


@pytest.mark.parametrize(
    ("name", "row", "text", "words"),
    [
        ("sst2", {"sentence": "fine ", "label": 1}, "fine It was<mask>.", ("terrible", "great")),
        (
            "sst5",
            {"text": "fine .", "label": 2},
            "fine . It was<mask>.",
            ("terrible", "bad", "okay", "good", "great"),
        ),
        (
            "rte",
            {"premise": "It rained in Oslo.", "hypothesis": "Oslo was wet.", "label": 0},
            "It rained in Oslo?<mask>, oslo was wet.",
            ("Yes", "No"),
        ),
    ],
)
def test_prompts_for_masked_models(name, row, text, words):
    template = get_task(name).masked
    example = template.example(row, row["label"])
    assert (example.text(), example.label_words, example.correct) == (text, words, (row["label"],))


def test_masked_limits_and_test_splits():
    templates = [get_task(name).masked for name in ("sst2", "sst5", "rte")]
    assert [template.before[0].limit for template in templates] == [None, 110, 240]
    assert [template.max_length for template in templates] == [128, 128, 256]
    assert [template.test_split for template in templates] == [None, "test", None]
