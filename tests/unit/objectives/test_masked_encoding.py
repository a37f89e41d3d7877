"""Prompts as token ids: piece by piece, with the mask where it belongs and the template whole."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

import masked_models
from foretune.errors import IncompatibleError, UsageError
from foretune.objectives.masked_encoding import encode_masked, find_label_ids, usable_masked_length
from foretune.tasks.masked import MaskedTemplate, Sentence, inferred_sentence, judged_sentence

PAIRS = inferred_sentence("a", "b", ("No", "Yes", "Maybe"), classes=(1, 2, 0))
REVIEWS = judged_sentence("s", " It was", ("terrible", "great"))
QUESTIONS = MaskedTemplate(before=(), after=(":", Sentence("s", follows=True)), label_words=("Human", "Number"))
ROW = {"a": "A man sleeps.", "b": "The man is awake.", "label": 2}
REVIEW = {"s": "a quiet film ", "label": 1}


@pytest.fixture(scope="module")
def byte_level():
    return masked_models.roberta_tokenizer()


@pytest.fixture(scope="module")
def word_piece():
    return masked_models.bert_tokenizer()


def encode(template, row, tokenizer, max_length=64):
    return encode_masked([template.example(row, "row 0")], tokenizer, max_length)[0]


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_pieces_of_a_pair(byte_level):
    encoded = encode(PAIRS, ROW, byte_level)
    symbol = byte_level.get_vocab()
    left = [0, *plain(byte_level, "A man sleeps"), symbol["?"]]
    right = [symbol[","], *plain(byte_level, " the man is awake."), 2]
    assert encoded.token_ids == (*left, byte_level.mask_token_id, *right)
    assert encoded.mask_position == len(left)
    assert encoded.correct == (0,)
    assert byte_level.convert_ids_to_tokens(encoded.label_ids) == ["ĠNo", "ĠYes", "ĠMaybe"]
    assert (encoded.length, encoded.num_cut, encoded.option_lengths) == (len(encoded.token_ids), 0, (1, 1, 1))


def test_pieces_of_a_review(byte_level):
    encoded = encode(REVIEWS, REVIEW, byte_level)
    pieces = [*plain(byte_level, "a quiet film"), *plain(byte_level, " It was")]
    assert encoded.token_ids == (0, *pieces, byte_level.mask_token_id, byte_level.get_vocab()["."], 2)


def test_a_prompt_may_start_with_its_mask(byte_level):
    encoded = encode(QUESTIONS, {"s": "how far", "label": 1}, byte_level)
    colon = byte_level.get_vocab()[":"]
    assert encoded.token_ids == (0, byte_level.mask_token_id, colon, *plain(byte_level, " how far"), 2)
    assert encoded.mask_position == 1


@pytest.mark.parametrize("template", [PAIRS, REVIEWS, QUESTIONS])
def test_decoded_ids_are_the_text(template, byte_level):
    row = ROW | REVIEW
    decoded = byte_level.decode(encode(template, row | {"label": 1}, byte_level).token_ids)
    assert decoded == f"<s>{template.example(row | {'label': 1}).text()}</s>"


def test_a_symbol_is_that_token_and_not_one_with_a_space(byte_level):
    """The text as one string would give other tokens: the mask strips what is before it."""
    template = replace(PAIRS, before=(Sentence("a"), " ?"))  # two characters: encoded as text
    assert encode(PAIRS, ROW, byte_level).token_ids != encode(template, ROW, byte_level).token_ids


def test_word_pieces_have_no_spaces(word_piece):
    encoded = encode(PAIRS, ROW, word_piece)
    words = ["[CLS]", "a", "man", "sleeps", "?", "[MASK]", ",", "the", "man", "is", "awake", ".", "[SEP]"]
    assert word_piece.convert_ids_to_tokens(list(encoded.token_ids)) == words
    assert word_piece.convert_ids_to_tokens(encoded.label_ids) == ["no", "yes", "maybe"]


def test_the_last_sentence_is_cut_first_and_the_template_never(byte_level, caplog):
    whole = encode(PAIRS, ROW, byte_level)
    symbol = byte_level.get_vocab()
    for max_length in range(whole.length - 1, 5, -1):
        with caplog.at_level(logging.WARNING, "foretune"):
            cut = encode(PAIRS, ROW, byte_level, max_length)
        assert cut.length == max_length
        assert cut.num_cut == whole.length - max_length
        assert cut.token_ids[cut.mask_position] == byte_level.mask_token_id
        assert cut.token_ids[cut.mask_position - 1] == symbol["?"]
        assert cut.token_ids[cut.mask_position + 1] == symbol[","]
        assert cut.token_ids[-1] == 2
        if max_length > whole.mask_position + 3:
            assert cut.mask_position == whole.mask_position
    assert "1 of 1 rows have sentences that are too long and were cut, by 1 tokens at most (the first is row 0)" in (
        caplog.text
    )
    with pytest.raises(UsageError, match="row 0: the prompt has 5 tokens without its sentences; --max-length is 4"):
        encode(PAIRS, ROW, byte_level, 4)


def test_a_sentence_has_its_own_limit(byte_level, caplog):
    template = inferred_sentence("a", "b", ("No", "Yes", "Maybe"), classes=(1, 2, 0), limit=2)
    with caplog.at_level(logging.WARNING, "foretune"):
        encoded = encode(template, ROW, byte_level)
    first = plain(byte_level, "A man sleeps")
    assert encoded.token_ids[1:3] == tuple(first[:2])
    assert encoded.mask_position == 4
    assert encoded.num_cut == len(first) - 2
    assert encoded.token_ids[encoded.mask_position :] == (
        byte_level.mask_token_id, byte_level.get_vocab()[","], *plain(byte_level, " the man is awake."), 2,
    )  # fmt: skip


def test_an_empty_sentence_has_no_tokens(byte_level):
    encoded = encode(PAIRS, ROW | {"a": ".", "b": " "}, byte_level)
    symbol = byte_level.get_vocab()
    assert encoded.token_ids == (0, symbol["?"], byte_level.mask_token_id, symbol[","], 2)


def test_a_word_of_several_tokens_is_refused(byte_level):
    with pytest.raises(UsageError, match=r"Label word 'zebra' should be one token .* it is \d: 'Ġ"):
        find_label_ids(["great", "zebra"], byte_level)


def test_a_word_that_is_not_in_the_vocabulary_is_refused(word_piece):
    with pytest.raises(UsageError, match=r"Label word 'zebra' should be one token .* it is 1: '\[UNK\]'"):
        find_label_ids(["great", "zebra"], word_piece)


def test_words_that_become_the_same_token_are_refused(word_piece):
    with pytest.raises(UsageError, match="Label words 'great' and 'Great' are the same token"):
        find_label_ids(["great", "Great"], word_piece)


def test_a_tokenizer_of_causal_models_is_refused(tiny_tokenizer):
    with pytest.raises(IncompatibleError, match="no cls_token, so it is not the tokenizer of a masked language model"):
        encode(REVIEWS, REVIEW, tiny_tokenizer)


def test_a_symbol_that_is_not_in_the_vocabulary_is_refused(word_piece):
    template = replace(QUESTIONS, after=("%", Sentence("s", follows=True)))
    with pytest.raises(IncompatibleError, match="needs the token '%'"):
        encode(template, {"s": "how far", "label": 1}, word_piece)


def test_positions_of_a_model(byte_level):
    """A RoBERTa with padding id 1 starts counting at 2, so 64 of its 66 positions are usable."""
    assert usable_masked_length(masked_models.roberta(), 128) == 64
    assert usable_masked_length(masked_models.roberta(), 50) == 50
    assert usable_masked_length(masked_models.bert(), 128) == 64


def test_no_rows(byte_level):
    assert encode_masked([], byte_level, 64) == []
