"""Tiny masked language models with random weights, and tokenizers of their families."""

from __future__ import annotations

import torch

TEXT = [
    "a quiet film that earns its tears . It was great . It was terrible .",
    "the jokes land about half the time . It was okay , bad and good",
    "A man sleeps? No , the man is awake . Yes , the man is asleep . Maybe , the man is asleep .",
    "How far is it from Denver to Aspen ? Number : how far",
    "Description Entity Expression Human Location Number : ? , .",
    " terrible bad okay good great No Yes Maybe Description Entity Expression Human Location Number",
] * 4
"""Plain English of our own, in which every label word is frequent enough to become one token."""


def roberta_tokenizer():
    """A byte-level BPE with `<s>` 0, `<pad>` 1, `</s>` 2 around and before texts, and a mask that strips."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


def bert_tokenizer(*, lowercase: bool = True):
    """A WordPiece of whole words with `[CLS]` and `[SEP]` around texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in TEXT for word in text.replace("?", " ? ").split()})
    words = sorted({word.lower() for word in words}) if lowercase else words
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    if lowercase:
        core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def roberta(*, vocab_size: int = 500, seed: int = 0, **changes):
    """A RoBERTa of two layers in eval mode; its decoder is tied to its embeddings unless told otherwise."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings = {"vocab_size": vocab_size, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    return _built(RobertaForMaskedLM, RobertaConfig(**{**sizes, **settings, **changes}), seed)


def bert(*, vocab_size: int = 500, seed: int = 0, **changes):
    """A BERT of two layers in eval mode."""
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return _built(
        BertForMaskedLM,
        BertConfig(**{**sizes, "vocab_size": vocab_size, "max_position_embeddings": 64, **changes}),
        seed,
    )


def distilbert(*, vocab_size: int = 500, seed: int = 0):
    """A DistilBERT of two layers in eval mode: its decoder's bias belongs to the decoder alone."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig(
        vocab_size=vocab_size, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    return _built(DistilBertForMaskedLM, config, seed)


def _built(cls, config, seed):
    """Build with weights large enough that hidden states differ, and biases that are not zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = cls(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()
