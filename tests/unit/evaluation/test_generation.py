from __future__ import annotations

import json
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foretune.errors import UsageError
from foretune.evaluation import generate_texts


class Scripted(nn.Module):
    """Answers each prompt with given tokens, then with token 9 forever."""

    def __init__(self, answers, *, vocabulary=500, positions=64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(max_position_embeddings=positions)
        self.answers, self.vocabulary, self.num_read = answers, vocabulary, 0

    def forward(self, input_ids, attention_mask):
        self.num_read += len(input_ids)
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        for row, ids, mask in zip(logits, input_ids, attention_mask, strict=True):
            tokens = tuple(ids[mask.bool()].tolist())
            prompt = next(prompt for prompt in self.answers if tokens[: len(prompt)] == prompt)
            answer = self.answers[prompt]
            given = len(tokens) - len(prompt)
            row[-1, answer[given] if given < len(answer) else 9] = 1.0
        return SimpleNamespace(logits=logits)


@pytest.fixture
def tokenizer(make_tokenizer):
    """Byte-level, with tokens that hold a newline and more, as large vocabularies have."""
    tokenizer = make_tokenizer(bos=True)
    tokenizer.add_tokens([".\n", "\n\n"])
    return tokenizer


def generate(tokenizer, answers, *, as_ids=False, **options):
    """Texts for scripted answers, and how many rows the model read for them."""
    ids = answers if as_ids else [tokenizer.encode(text, add_special_tokens=False) for text in answers]
    script = {(2, 20 + k, *[5] * k): answer for k, answer in enumerate(ids)}
    model = Scripted(script)
    options = {"max_new_tokens": 24, "stops_at_newline": True, "max_length": 64, **options}
    return generate_texts(model, tokenizer, list(script), **options), model.num_read


def test_answer_is_a_line_without_white_space_around(tokenizer):
    answers = [" 1811\nQuestion", " great film \nIt", "\ngreat", "great"]
    texts, num_read = generate(tokenizer, answers, max_new_tokens=10)
    assert texts[:3] == ["1811", "great film", ""]
    assert texts[3].startswith("great")
    lengths = [len(tokenizer.encode(text.split("\n")[0], add_special_tokens=False)) + 1 for text in answers[:3]]
    assert num_read == sum(lengths) + 10  # a row costs nothing once it has ended


def test_newline_inside_another_token_cuts_and_ends(tokenizer):
    texts, num_read = generate(tokenizer, ["great.\ngood", "\n\ngood.\ngreat", "\n\n\n\ngood"])
    assert texts[:2] == ["great.", "good."]
    assert texts[2].startswith("good")
    pieces = [tokenizer.encode(text, add_special_tokens=False) for text in ("great.\n", "\n\ngood.\n")]
    assert num_read == sum(map(len, pieces)) + 24


def test_end_of_text_ends_and_special_tokens_are_left_out(tokenizer):
    great = tokenizer.encode(" great", add_special_tokens=False)
    assert generate(tokenizer, [[*great, 2, *great], [1, *great, 3, 2], [2]], as_ids=True)[0] == ["great", "great", ""]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Yes .\nNo .\n\n### Instruction:\nIs", "Yes .\nNo ."),
        ("### Response:\nYes", ""),
        ("Is ### it", "Is ### it"),
        ("#### it", "#### it"),
        ("Yes\n###", "Yes\n###"),
    ],
)
def test_long_answers_end_at_a_heading(tokenizer, answer, text):
    tokens = [*tokenizer.encode(answer, add_special_tokens=False), 2]
    (found,), num_read = generate(tokenizer, [tokens], as_ids=True, stops_at_newline=False, max_new_tokens=40)
    assert found == text
    heading = len(tokenizer.encode(answer[: answer.find("### ") + 4], add_special_tokens=False))
    assert num_read == (heading if text != answer else len(tokens))


def test_newline_of_sentencepiece_is_the_last_of_its_ids():
    """encode("\\n") is a lone space and the newline's byte; the space alone must not end an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "▁", "<0x0A>", "a", "b", "▁a"]
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    assert tokenizer.encode("\n", add_special_tokens=False) == [3, 4]
    assert tokenizer.pad_token is None
    texts, num_read = generate(tokenizer, [[3, 5, 6, 4, 5], [7, 3, 7, 2]], as_ids=True)
    assert texts == ["ab", "a  a"]
    assert num_read == 4 + 4


def test_tokenizer_that_drops_newlines_ends_at_end_of_text():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "yes": 2}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[SEP]", unk_token="[UNK]")
    assert generate(tokenizer, [[2, 2, 1]], as_ids=True)[0] == ["yes yes"]


def test_texts_keep_the_rows_order_whatever_the_batch(tokenizer):
    answers = [f" {word}\n" for word in ("great", "terrible", "good", "bad", "quiet")]
    for batch_size in (1, 2, 5):
        assert generate(tokenizer, answers, batch_size=batch_size)[0] == [answer.strip() for answer in answers]
    assert generate(tokenizer, [])[0] == []


def test_max_length_shortens_the_text(tokenizer):
    (great,) = tokenizer.encode(" great", add_special_tokens=False)
    prompt_length = 2
    texts, _ = generate(tokenizer, [[great] * 9], as_ids=True, max_length=prompt_length + 3)
    assert texts == ["great great great"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0 and batch_size is 32; both should be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 3}, "Generation prompt 1 has 3 tokens; with 1 new ones they do not fit into 3"),
        (
            {"max_length": 99, "max_new_tokens": 62},
            r"Generation prompt 1 has 3 tokens; with 62 new ones they do not fit into 64 \(max_length, or the model's",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_read(tokenizer, options, message):
    with pytest.raises(UsageError, match=message):
        generate(tokenizer, ["great", "good"], **options)
    with pytest.raises(UsageError, match="Generation prompt 0 has no token"):
        generate_texts(Scripted({}), tokenizer, [()], max_new_tokens=1, stops_at_newline=True, max_length=9)


def test_batched_texts_of_the_real_model_equal_one_at_a_time(real_data_dir, opt_mini_dir):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(opt_mini_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(opt_mini_dir)
    with open(real_data_dir / "squad" / "validation.jsonl") as file:
        rows = [json.loads(line) for line in islice(file, 0, 600, 100)]
    prompts = [
        tokenizer.encode(f"Context: {row['context'][:400]}\nQuestion: {row['question']}\nAnswer:") for row in rows
    ]

    def one_by_one(prompt):
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            while tokens.shape[1] < len(prompt) + 8 and tokens[0, -1] not in (newline, tokenizer.eos_token_id):
                tokens = torch.cat((tokens, model.eval()(tokens).logits[:, -1:].argmax(-1)), dim=1)
        return tokenizer.decode(tokens[0, len(prompt) :], skip_special_tokens=True).strip()

    (newline,) = tokenizer.encode("\n", add_special_tokens=False)
    expected = [one_by_one(prompt) for prompt in prompts]
    assert len(set(expected)) > 3
    for batch_size in (4, 6):
        texts = generate_texts(
            model,
            tokenizer,
            prompts,
            max_new_tokens=8,
            stops_at_newline=True,
            max_length=512,
            batch_size=batch_size,
        )
        assert texts == expected
