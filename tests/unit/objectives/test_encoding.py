from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.errors import UsageError
from foretune.objectives.encoding import adds_bos, encode_examples, usable_length
from foretune.tasks import Example

BOS = EOS = 2


def encode_one(tokenizer, prompt, *options, max_length=2048):
    example = Example(prompt=prompt, candidates=options, correct=(0,), name="sst2 train row 7")
    return encode_examples([example], tokenizer, max_length)[0]


class WithoutOffsets:
    """A tokenizer as the slow ones are: ids only."""

    is_fast = False

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.bos_token_id, self.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id

    def __call__(self, text, **options):
        assert "return_offsets_mapping" not in options
        return self._tokenizer(text, **options)


@pytest.fixture(scope="module")
def no_bos_tokenizer(make_tokenizer):
    return make_tokenizer(bos=False)


def test_ids_are_the_normal_encoding_and_the_option_its_last_tokens(tiny_tokenizer):
    encoded = encode_one(tiny_tokenizer, "a film It was", " terrible", " great", " wonderfully odd")
    assert [list(ids) for ids in encoded.token_ids] == [
        tiny_tokenizer("a film It was" + option)["input_ids"] for option in (" terrible", " great", " wonderfully odd")
    ]
    assert encoded.option_lengths[:2] == (1, 1)
    assert encoded.option_lengths[2] > 2
    for ids, length, option in zip(
        encoded.token_ids, encoded.option_lengths, (" terrible", " great", " wonderfully odd"), strict=True
    ):
        assert tiny_tokenizer.decode(ids[-length:]) == option
    assert (encoded.correct, encoded.name) == ((0,), "sst2 train row 7")
    assert encoded.length == len(encoded.token_ids[2])


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.text(alphabet="ab It was\n?.é漢🙂", min_size=1, max_size=20).filter(lambda text: text.strip()),
    option=st.sampled_from([" great", " terrible", "Yes", " é🙂", "\n", " a b"]),
)
def test_offsets_prefix_and_length_difference_agree_where_the_prompt_is_a_token_prefix(tiny_tokenizer, prompt, option):
    full, alone = tiny_tokenizer(prompt + option)["input_ids"], tiny_tokenizer(prompt)["input_ids"]
    by_characters = encode_one(tiny_tokenizer, prompt, option)
    by_prefix = encode_one(WithoutOffsets(tiny_tokenizer), prompt, option)
    assert by_characters.token_ids == by_prefix.token_ids == (tuple(full),)
    if full[: len(alone)] == alone:
        assert by_characters.option_lengths == by_prefix.option_lengths == (len(full) - len(alone),)


def test_token_merged_over_the_boundary_belongs_to_the_option(tiny_tokenizer):
    # " great" is one token although the prompt already has its space; the length difference would be 0
    encoded = encode_one(tiny_tokenizer, "a film It was ", "great", "bad")
    assert encoded.option_lengths == (1, 1)
    assert [tiny_tokenizer.decode(ids[-1]) for ids in encoded.token_ids] == [" great", " bad"]
    assert len(tiny_tokenizer("a film It was ")["input_ids"]) == len(encoded.token_ids[0])


def test_special_token_after_the_text_is_not_part_of_the_option(tiny_tokenizer, make_tokenizer):
    from tokenizers import processors

    tokenizer = make_tokenizer(bos=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", EOS)]
    )
    assert encode_one(tokenizer, "It was", " great") == encode_one(tiny_tokenizer, "It was", " great")


def test_bos_is_detected_by_encoding_not_by_attribute(tiny_tokenizer, no_bos_tokenizer, make_tokenizer):
    assert adds_bos(tiny_tokenizer)
    assert not adds_bos(no_bos_tokenizer)
    silent = make_tokenizer(bos=False)
    silent.bos_token = "</s>"  # has one, does not use it: GPT-2
    assert silent.bos_token_id == BOS
    assert not adds_bos(silent)


@pytest.mark.parametrize("max_length", [4, 9])
def test_truncation_keeps_bos_and_option_and_cuts_the_left(tiny_tokenizer, max_length):
    prompt = "good and bad films , great and terrible films It was"
    full = encode_one(tiny_tokenizer, prompt, " great", " wonder")
    cut = encode_one(tiny_tokenizer, prompt, " great", " wonder", max_length=max_length)
    assert cut.option_lengths == full.option_lengths
    for short, long in zip(cut.token_ids, full.token_ids, strict=True):
        assert len(short) == max_length
        assert short == (BOS, *long[-(max_length - 1) :])


def test_truncation_without_bos_keeps_the_last_tokens(no_bos_tokenizer):
    full = encode_one(no_bos_tokenizer, "good and bad films It was", " great")
    cut = encode_one(no_bos_tokenizer, "good and bad films It was", " great", max_length=5)
    assert cut.token_ids == (full.token_ids[0][-5:],)


def test_empty_prompt_has_bos_or_else_end_of_text_as_context(tiny_tokenizer, no_bos_tokenizer, caplog):
    great = no_bos_tokenizer("great")["input_ids"]
    assert encode_one(tiny_tokenizer, "", "great").token_ids == ((BOS, *great),)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        encoded = encode_one(no_bos_tokenizer, "", "great", "terrible")
    assert encoded.token_ids[0] == (EOS, *great)
    assert encoded.option_lengths[0] == len(great)
    assert len(caplog.records) == 1
    assert "sst2 train row 7, option 'great': the prompt is empty" in caplog.text


def test_empty_prompt_without_any_context_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer(bos=False)
    tokenizer.eos_token = None
    with pytest.raises(UsageError, match=r"^sst2 train row 7, option 'great': the prompt is empty.*neither a BOS"):
        encode_one(tokenizer, "", "great")


@pytest.mark.parametrize("slow", [False, True])
def test_empty_option_is_refused_by_row_name(tiny_tokenizer, slow):
    tokenizer = WithoutOffsets(tiny_tokenizer) if slow else tiny_tokenizer
    with pytest.raises(UsageError, match=r"^sst2 train row 7, option '': it adds no token to the prompt"):
        encode_one(tokenizer, "It was", " great", "")


def test_option_that_does_not_fit_is_refused_by_row_name(tiny_tokenizer):
    option = " wonderfully odd"
    (length,) = encode_one(tiny_tokenizer, "It was", option).option_lengths
    assert encode_one(tiny_tokenizer, "It was", option, max_length=length + 1).option_lengths == (length,)
    message = f"'{option}': it has {length} tokens; with max_length {length} at most {length - 1} fit"
    with pytest.raises(UsageError, match=f"^sst2 train row 7, option {message}"):
        encode_one(tiny_tokenizer, "It was", option, max_length=length)


def test_no_examples_give_no_rows(tiny_tokenizer):
    assert encode_examples([], tiny_tokenizer) == []


def test_usable_length_is_bounded_by_the_models_positions():
    from transformers import GPT2Config, LlamaConfig, MambaConfig

    class Model:
        def __init__(self, config):
            self.config = config

    assert usable_length(Model(GPT2Config(n_positions=64))) == 64
    assert usable_length(Model(LlamaConfig(max_position_embeddings=4096))) == 2048
    assert usable_length(Model(LlamaConfig(max_position_embeddings=4096)), 128) == 128
    assert usable_length(Model(MambaConfig()), 300) == 300
