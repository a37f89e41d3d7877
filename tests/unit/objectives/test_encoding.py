from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretune.errors import IncompatibleError, UsageError
from foretune.objectives.encoding import adds_bos, encode_examples, usable_length
from foretune.tasks import Example

BOS = EOS = 2


def encode_one(tokenizer, prompt, *options, max_length=2048, **fields):
    example = Example(prompt=prompt, candidates=options, correct=(0,), name="sst2 train row 7", **fields)
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


@pytest.fixture(scope="module")
def ending_tokenizer(make_tokenizer):
    """Puts a special token behind every text, too."""
    from tokenizers import processors

    tokenizer = make_tokenizer(bos=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


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


def test_special_token_after_the_text_is_not_part_of_the_option(tiny_tokenizer, ending_tokenizer):
    assert encode_one(ending_tokenizer, "It was", " great") == encode_one(tiny_tokenizer, "It was", " great")


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
    message = f"'{option}': it has {length} tokens; with --max-length {length} at most {length - 1} fit"
    with pytest.raises(UsageError, match=f"^sst2 train row 7, option {message}"):
        encode_one(tiny_tokenizer, "It was", option, max_length=length)


def test_cut_rows_are_counted_and_told_of_once(tiny_tokenizer, caplog):
    examples = [
        Example(prompt=prompt, candidates=(" great", " bad and odd"), correct=(0,), name=f"row {number}")
        for number, prompt in enumerate(["It was", "the jokes land about half the time . It was", "a film It was"])
    ]
    whole, cut = encode_examples(examples, tiny_tokenizer), encode_examples(examples, tiny_tokenizer, 12)
    assert [row.num_cut for row in whole] == [0, 0, 0]
    assert [row.num_cut for row in cut] == [max(0, row.length - 12) for row in whole]
    (record,) = caplog.records
    most = max(row.num_cut for row in cut)
    assert record.getMessage() == (
        f"1 of 3 rows are longer than 12 tokens and were cut, by {most} tokens at most (the first is row 1)."
    )


CONTEXT = "the bridge opened in 1932 after eight years of work"
PROMPT = f"Is it true ?\n{CONTEXT} .\nYes or No ?\n"
SPAN = (PROMPT.index(CONTEXT), PROMPT.index(CONTEXT) + len(CONTEXT))


def test_the_shortened_part_is_cut_from_its_end_before_the_left(tiny_tokenizer):
    whole = encode_one(tiny_tokenizer, PROMPT, "Yes")
    before = len(tiny_tokenizer(PROMPT[: SPAN[0]])["input_ids"])
    context = len(tiny_tokenizer(CONTEXT)["input_ids"]) - 1  # without its BOS
    ids = whole.token_ids[0]
    for lost in (1, 5, context, context + 2):
        cut = encode_one(tiny_tokenizer, PROMPT, "Yes", max_length=len(ids) - lost, shortened=SPAN)
        of_context = min(lost, context)
        expected = ids[: before + context - of_context] + ids[before + context :]
        if lost > context:
            expected = (BOS, *expected[1 + lost - context :])
        assert cut.token_ids == (expected,)
        assert cut.num_cut == lost
    roomy = encode_one(tiny_tokenizer, PROMPT, "Yes", max_length=len(ids), shortened=SPAN)
    assert (roomy.token_ids, roomy.num_cut) == (whole.token_ids, 0)


def test_a_part_can_be_shortened_without_offsets_only_while_nothing_is_cut(tiny_tokenizer):
    slow = WithoutOffsets(tiny_tokenizer)
    ids = encode_one(slow, PROMPT, "Yes", shortened=SPAN).token_ids[0]
    with pytest.raises(IncompatibleError, match=r"^sst2 train row 7: it has \d+ tokens, 1 more than .* WithoutOffsets"):
        encode_one(slow, PROMPT, "Yes", shortened=SPAN, max_length=len(ids) - 1)
    assert encode_one(slow, PROMPT, "Yes", max_length=len(ids) - 1).num_cut == 1


def test_an_option_that_ends_the_text_has_eos_as_its_last_token(tiny_tokenizer):
    plain = encode_one(tiny_tokenizer, "It was", " great")
    ended = encode_one(tiny_tokenizer, "It was", " great", "", ends_text=True)
    assert ended.token_ids[0] == (*plain.token_ids[0], EOS)
    assert ended.token_ids[1] == (*plain.token_ids[0][: -plain.option_lengths[0]], EOS)
    assert ended.option_lengths == (plain.option_lengths[0] + 1, 1)


@pytest.mark.parametrize("spare", [1, 0, -1, -3])
def test_an_option_that_ends_the_text_is_cut_on_the_right_where_it_alone_is_too_long(tiny_tokenizer, spare):
    whole = encode_one(tiny_tokenizer, "It was", " wonderfully odd", ends_text=True)
    (length,), prompt_length = whole.option_lengths, len(tiny_tokenizer("It was")["input_ids"])
    cut = encode_one(tiny_tokenizer, "It was", " wonderfully odd", ends_text=True, max_length=length + 1 + spare)
    option = whole.token_ids[0][-length:]
    context = (BOS, *whole.token_ids[0][prompt_length - 1 : prompt_length])[: 1 + max(spare, 0)]
    assert cut.token_ids[0] == context + option[: length + min(spare, 0)]
    assert cut.option_lengths == (length + min(spare, 0),)
    assert cut.num_cut == whole.length - cut.length


def test_a_text_cannot_end_without_an_end_of_text_token(make_tokenizer):
    tokenizer = make_tokenizer(bos=False)
    tokenizer.eos_token = None
    with pytest.raises(IncompatibleError, match=r"^sst2 train row 7, option ' great': .* the tokenizer has none"):
        encode_one(tokenizer, "It was", " great", ends_text=True)


def test_rows_whose_answer_is_generated_carry_their_prompt_alone(tiny_tokenizer, no_bos_tokenizer):
    answers = ("Yes", "yes")
    alone = tuple(tiny_tokenizer(PROMPT)["input_ids"])
    for tokenizer in (tiny_tokenizer, WithoutOffsets(tiny_tokenizer)):
        row = encode_one(tokenizer, PROMPT, "Yes\n", answers=answers)
        assert (row.answers, row.prompt_ids) == (answers, alone)
    assert encode_one(tiny_tokenizer, PROMPT, "Yes\n").prompt_ids == ()
    cut = encode_one(tiny_tokenizer, PROMPT, "Yes\n", answers=answers, max_length=len(alone) - 2)
    assert cut.prompt_ids == (BOS, *alone[3:])
    shortened = encode_one(tiny_tokenizer, PROMPT, "Yes\n", answers=answers, max_length=len(alone) - 2, shortened=SPAN)
    assert len(shortened.prompt_ids) == len(alone) - 2
    assert shortened.prompt_ids[:4] == alone[:4]
    assert encode_one(no_bos_tokenizer, "", "Yes", answers=answers).prompt_ids == (EOS,)


def test_prompt_alone_has_no_special_token_behind_it(tiny_tokenizer, ending_tokenizer):
    assert ending_tokenizer("It was")["input_ids"][-1] == EOS
    alone = tuple(tiny_tokenizer("It was")["input_ids"])
    assert encode_one(ending_tokenizer, "It was", "Yes", answers=("Yes",)).prompt_ids == alone


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
