"""Scores equal the oracle's, and spans are the option's, for any text and every kind of tokenizer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import model_zoo
import oracles
from foretune.objectives import ClassificationObjective, LMObjective, encode_examples, find_packed_length
from foretune.tasks import Example

TEXT = [
    "a quiet film that earns its tears It was great",
    "the jokes land about half the time . It was terrible",
    "good and bad films , great and terrible films , It was good , It was bad",
    "Is it true ?\nYes or No ?\nYes",
] * 4

ALPHABET = "abe IstYgr \n?.'-éß漢🙂1"
words = st.one_of(
    st.sampled_from(["great", "terrible", "Yes", "No", "good films", "odd", "?", "🙂"]),
    st.text(alphabet=ALPHABET, min_size=1, max_size=6).filter(lambda text: text.strip()),
)
prompts = st.text(alphabet=ALPHABET, min_size=1, max_size=16).filter(lambda text: text.strip())
options = st.one_of(words, words.map(" {}".format), words.map("\n{}".format))
examples = st.builds(
    lambda prompt, candidates, right: Example(prompt, tuple(candidates), (right % len(candidates),), "row"),
    prompts,
    st.lists(options, min_size=1, max_size=4, unique=True),
    st.integers(0, 11),
)


def byte_level(make_tokenizer):
    """As GPT-2, OPT and their followers; no special tokens."""
    return make_tokenizer(bos=False)


def sentencepiece_like(make_tokenizer):
    """As LLaMA: a mark for spaces, one put in front of the text, bytes for what is not in the vocabulary; BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.ByteFallback()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece(make_tokenizer):
    """As BERT: pieces of words, unknown words as a whole, a special token at either end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return _fast(tokenizer, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]")


def _fast(tokenizer, **special):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like, wordpiece], ids=lambda build: build.__name__)
def tokenizer(request, make_tokenizer):
    return request.param(make_tokenizer)


@pytest.fixture(scope="module")
def model():
    return model_zoo.opt(vocab_size=512, max_position_embeddings=128).eval()


@pytest.fixture(scope="module")
def shortcuts(model):
    """The objectives with all that the model allows, packed options among it."""
    found = ClassificationObjective.for_model(model), LMObjective.for_model(model)
    assert find_packed_length(model) == 128
    return found


def reference(tokenizer, prompt, option):
    """Token ids up to the end of the text, and the spans of those that end after the prompt."""
    encoding = tokenizer.backend_tokenizer.encode(prompt + option)
    last = max(index for index, span in enumerate(encoding.offsets) if span[1] > 0)
    spans = [span for span in encoding.offsets[: last + 1] if span[1] > len(prompt)]
    ids = encoding.ids[: last + 1]
    return (ids if len(ids) > len(spans) else [tokenizer.eos_token_id, *ids]), spans


def _pieces(tokenizer, text):
    """Each token with its span."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    return list(zip(encoding.ids, encoding.offsets, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(examples, min_size=1, max_size=3))
def test_scores_and_loss_are_those_of_one_candidate_at_a_time(tokenizer, model, shortcuts, rows):
    classification, lm = shortcuts
    encoded = encode_examples(rows, tokenizer, 128)
    with torch.no_grad():
        scores = classification.score(model, classification.collate(encoded))
        loss = lm.loss(model, lm.collate(encoded))
        right = []
        for row, of_row in zip(rows, scores, strict=True):
            for index, (option, score) in enumerate(zip(row.candidates, of_row.tolist(), strict=False)):
                ids, spans = reference(tokenizer, row.prompt, option)
                logprobs = oracles.option_logprobs(model, ids, len(spans))
                assert score == pytest.approx(float(logprobs.mean()), abs=1e-5)
                right += [logprobs] if index == row.correct[0] else []
        assert float(loss) == pytest.approx(-float(torch.cat(right).mean()), abs=1e-5)


@settings(max_examples=150, deadline=None)
@given(prompts, options)
def test_spans_hold_every_character_of_the_option_and_no_token_of_the_prompt(tokenizer, prompt, option):
    (row,) = encode_examples([Example(prompt, (option,), (0,))], tokenizer)
    length = row.option_lengths[0]
    ids, spans = reference(tokenizer, prompt, option)
    assert row.token_ids == (tuple(ids),)
    assert length == len(spans) >= 1
    assert all(end > len(prompt) for _, end in spans)
    alone, whole = (_pieces(tokenizer, text) for text in (prompt, prompt + option))
    if whole[: len(alone)] == alone:  # nothing merges over the boundary
        assert all(start >= len(prompt) for start, _ in spans)
        assert row.token_ids[0][-length:] == tuple(token for token, _ in whole[len(alone) :])
