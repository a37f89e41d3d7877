from __future__ import annotations

import json

import pytest
from transformers import OPTConfig, RobertaConfig

from foretune.errors import UsageError
from foretune.runs.preview import PreviewConfig, preview

SST2 = [{"sentence": "a quiet film ", "label": 1, "idx": 0}, {"sentence": "good and bad ", "label": 0, "idx": 1}]
SNLI = [
    {"premise": "A dog runs.", "hypothesis": "An animal moves.", "label": -1},
    {"premise": "It was good.", "hypothesis": "It was great.", "label": 2},
]
COPA = [
    {
        "premise": "It was true.",
        "choice1": "It was good.",
        "choice2": "I went.",
        "question": "cause",
        "label": 1,
        "idx": 0,
    }
]
SQUAD = [
    {
        "id": "1",
        "title": "T",
        "context": "the story is slow",
        "question": "is it ?",
        "answers": {"text": ["slow", "so"], "answer_start": [0, 0]},
    }
]


@pytest.fixture
def data_dir(tmp_path):
    for name, rows in {"sst2": SST2, "snli": SNLI, "copa": COPA, "squad": SQUAD}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / name / "train.jsonl").write_text(text)
    return str(tmp_path / "data")


@pytest.fixture
def causal(tmp_path, tiny_tokenizer):
    """A folder with a configuration and a tokenizer: no weights are read."""
    config = OPTConfig(architectures=["OPTForCausalLM"], max_position_embeddings=64)
    config.save_pretrained(tmp_path / "causal")
    tiny_tokenizer.save_pretrained(tmp_path / "causal")
    return str(tmp_path / "causal")


@pytest.fixture
def masked(tmp_path):
    """A word-level tokenizer with a mask, for which every label word is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "It", "was", "?", ",", ".", "good", "great", "it", "terrible"]
    vocabulary = {word: index for index, word in enumerate([*words, "Yes", "No", "Maybe"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "masked")
    RobertaConfig(architectures=["RobertaForMaskedLM"]).save_pretrained(tmp_path / "masked")
    return str(tmp_path / "masked")


def show(name, data_dir, **options):
    return preview(PreviewConfig(name=name, data_dir=data_dir, **options))


def test_text_alone_without_a_model(data_dir):
    shown = show("sst2", data_dir)
    assert (shown.prompt, shown.candidates, shown.correct) == ("a quiet film It was", (" terrible", " great"), (1,))
    assert shown.calibration == ("It was", (" terrible", " great"))
    assert (shown.template, shown.row_name, shown.objective) == ("v0", "sst2 train row 0", "classification")
    assert (shown.sequences, shown.max_length) == ((), None)
    assert show("sst2", data_dir, template="v1", row=1).prompt == "good and bad"


def test_scored_tokens_are_the_options(data_dir, causal, tiny_tokenizer):
    shown = show("copa", data_dir, model=causal)
    assert shown.max_length == 64
    assert [sequence.before[0] for sequence in shown.sequences] == ["</s>", "</s>"]
    for sequence, option in zip(shown.sequences, shown.candidates, strict=True):
        assert tiny_tokenizer.convert_tokens_to_string(list(sequence.before[1:])) == shown.prompt
        assert tiny_tokenizer.convert_tokens_to_string(list(sequence.scored)) == option
        assert sequence.length == len(tiny_tokenizer(shown.prompt + option)["input_ids"])


def test_what_is_cut_is_counted_and_room_for_the_answer_is_kept(data_dir, causal, tiny_tokenizer):
    shown = show("squad", data_dir, model=causal)
    assert (shown.candidates, shown.answers, shown.calibration) == ((" slow\n",), ("slow", "so"), None)
    whole = len(tiny_tokenizer(shown.prompt + shown.candidates[0])["input_ids"])
    assert shown.sequences[0].length == 64 - 50
    assert shown.num_cut == whole - 14 > 0
    assert tiny_tokenizer.convert_tokens_to_string(list(shown.sequences[0].scored)) == " slow\n"


def test_mask_is_what_is_scored_and_rows_without_a_label_are_passed_over(data_dir, masked):
    shown = show("snli", data_dir, model=masked)
    assert shown.row_name == "snli train row 1"
    assert shown.prompt == "It was good?<mask>, it was great."
    assert (shown.candidates, shown.correct) == (("No", "Yes", "Maybe"), (0,))
    (sequence,) = shown.sequences
    assert sequence.before == ("<s>", "It", "was", "good", "?")
    assert sequence.scored == ("<mask>",)
    assert sequence.after == (",", "it", "was", "great", ".", "</s>")
    assert show("snli", data_dir).prompt == shown.prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sst3"}, "Unknown task 'sst3'. Did you mean: sst5, sst2"),
        ({"name": "sst2", "row": -1}, "--row must be at least 0, got -1"),
        ({"name": "sst2", "row": 2}, r"--row 2: .*train.jsonl has 2 rows, and none with an answer from there on"),
        ({"name": "sst2", "template": "v9"}, "has no template 'v9'"),
        ({"name": "snli", "template": "v0"}, "--template v0: there is one prompt for masked language models"),
        ({"name": "sst2", "max_length": 9}, "--max-length 9 has no effect without --model"),
        ({"name": "sst2", "model": "/no/such"}, "--model /no/such: there is no such folder"),
    ],
)
def test_wrong_options_are_named(data_dir, options, message):
    with pytest.raises(UsageError, match=message):
        preview(PreviewConfig(data_dir=data_dir, **options))
    with pytest.raises(UsageError, match="--row 1 has no effect without the name of a task"):
        PreviewConfig(row=1).check()


def test_model_of_a_kind_the_task_has_no_prompt_for(data_dir, causal, masked):
    with pytest.raises(UsageError, match="Task 'snli' has a prompt for masked language models only"):
        show("snli", data_dir, model=causal)
    with pytest.raises(UsageError, match="Task 'copa' has no prompt for masked language models"):
        show("copa", data_dir, model=masked)
