from __future__ import annotations

import json
import re
import shutil
from functools import partial

import pytest
import torch
from transformers import AutoConfig

import masked_models
from foretune.errors import IncompatibleError, UsageError
from foretune.objectives import ClassificationObjective, encode_examples
from foretune.objectives.encoding import adds_bos
from foretune.runs.loading import (
    load_adapter,
    load_config,
    load_model,
    load_tokenizer,
    model_kind,
    resolve_device,
    resolve_dtype,
)
from foretune.tasks import Example
from model_zoo import gpt2, llama, mistral, opt, qwen2, roberta

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Nothing here may ask the hub; the libraries read the variable at import, so their switch is set, too."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def saved(tmp_path):
    """Function `(model) -> folder` that saves a model."""

    def save(model):
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def load(folder, kind="causal", dtype=torch.float32, **options):
    return load_model(str(folder), dtype=dtype, device=CPU, kind=kind, **options)


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("build", [opt, llama, qwen2, mistral, gpt2], ids=lambda build: build.__name__)
def test_causal_models_come_back_as_they_were_saved(saved, build):
    model = build()
    loaded = load(saved(model))
    assert type(loaded) is type(model)
    assert model_kind(loaded.config) == "causal"
    for (name, expected), (_, found) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_masked_model_comes_back_with_its_head(saved):
    model = roberta()
    loaded = load(saved(model), kind="masked")
    assert type(loaded) is type(model)
    assert torch.equal(loaded.lm_head.dense.weight, model.lm_head.dense.weight)
    assert loaded.lm_head.decoder.weight.data_ptr() == loaded.roberta.embeddings.word_embeddings.weight.data_ptr()


def test_dtype_auto_is_the_checkpoints_on_a_gpu_and_float32_on_a_cpu(saved):
    folder = saved(opt().to(torch.bfloat16))
    assert load(folder, dtype=resolve_dtype("auto", CPU)).dtype == torch.float32
    assert load(folder, dtype=resolve_dtype("auto", torch.device("cuda"))).dtype == torch.bfloat16
    assert load(folder, dtype=resolve_dtype("float64", CPU)).dtype == torch.float64


@pytest.mark.parametrize(
    ("model_type", "architectures", "changes", "kind"),
    [
        ("opt", ["OPTForCausalLM"], {}, "causal"),
        ("opt", None, {}, "causal"),
        ("llama", ["LlamaModel"], {}, "causal"),
        ("roberta", ["RobertaForMaskedLM"], {}, "masked"),
        ("roberta", ["RobertaForCausalLM"], {}, "causal"),
        ("roberta", None, {}, "masked"),
        ("roberta", ["RobertaForSequenceClassification"], {}, "masked"),
        ("bert", None, {"is_decoder": True}, "causal"),
        ("distilbert", None, {}, "masked"),
        ("bert", ["TheirModel"], {"auto_map": {"AutoModelForCausalLM": "modeling.TheirModel"}}, "causal"),
        ("gpt2", ["TheirModel"], {"auto_map": {"AutoModelForMaskedLM": "modeling.TheirModel"}}, "masked"),
    ],
)
def test_kind_follows_saved_class_then_own_code_then_model_type(model_type, architectures, changes, kind):
    assert model_kind(AutoConfig.for_model(model_type, architectures=architectures, **changes)) == kind


def test_model_of_the_other_kind_is_refused_before_its_weights_are_read(saved):
    folder = saved(roberta())
    (folder / "model.safetensors").unlink()
    expected = f"--model {folder} is a masked language model (RobertaForMaskedLM); this needs a causal one"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}, such as facebook/opt-1.3b"):
        load(folder)
    folder = saved(opt())
    with pytest.raises(UsageError, match=r"is a causal language model \(OPTForCausalLM\); this needs a masked one"):
        load(folder, kind="masked")


@pytest.mark.parametrize(
    ("model_type", "architectures", "message"),
    [
        ("t5", ["T5ForConditionalGeneration"], r"--model .*model \(T5ForConditionalGeneration\) is an encoder-decoder"),
        ("bart", None, r"\(bart\) is an encoder-decoder"),
        ("vit", ["ViTForImageClassification"], r"\(ViTForImageClassification\) is no language model"),
    ],
)
def test_models_of_no_use_are_refused_by_what_they_are(tmp_path, model_type, architectures, message):
    AutoConfig.for_model(model_type, architectures=architectures).save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "model")


def test_weights_that_would_be_random_are_refused(saved):
    """A classifier's checkpoint has no language-model head; transformers would make one up."""
    from transformers import LlamaForSequenceClassification

    folder = saved(LlamaForSequenceClassification(llama().config))
    with pytest.raises(UsageError, match=r"it lacks 1 weights of LlamaForCausalLM, such as 'lm_head.weight'"):
        load(folder)


def test_quantized_checkpoint_is_refused_by_its_method(saved):
    folder = saved(opt())
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(IncompatibleError, match=r"^--model .*model: its weights are quantized \(gptq\)"):
        load(folder)


def test_own_code_needs_the_option(saved):
    folder = saved(opt())
    change_config(
        folder,
        model_type="theirs",
        architectures=["TheirModel"],
        auto_map={"AutoConfig": "theirs.TheirConfig", "AutoModelForCausalLM": "theirs.TheirModel"},
    )
    tokenizer_map = {"AutoTokenizer": ["theirs.TheirTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": tokenizer_map}))
    (folder / "theirs.py").write_text("raise SystemError('their code ran')\n")
    for refused in (load, lambda folder: load_tokenizer(str(folder))):
        with pytest.raises(UsageError, match=r"without running code that its repository ships.*--trust-remote-code"):
            refused(folder)
    with pytest.raises(SystemError, match="their code ran"):
        load(folder, trust_remote_code=True)


def test_layers_that_are_not_used_are_warned_of_and_heads_are_not(saved, caplog):
    from transformers import RobertaForSequenceClassification

    folder = saved(opt())
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    change_config(folder, num_hidden_layers=layers - 1)
    load(folder)
    assert "weights of layers are not used, such as 'model.decoder.layers." in caplog.text
    caplog.clear()
    folder = saved(RobertaForSequenceClassification(masked_models.roberta().config))
    with pytest.raises(UsageError, match="it lacks"):
        load(folder, kind="masked")
    assert "are not used" not in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"model_type":', "not a valid JSON file"),
        ("config.json", '{"model_type": "unheard_of"}', "model type `unheard_of`"),
        ("config.json", None, "has no config.json, so it is not a saved model"),
        ("model.safetensors", "garbage", "header"),
        ("model.safetensors", None, "has no weights: no model.safetensors"),
    ],
)
def test_broken_folder_is_one_clear_error(saved, file, content, message):
    folder = saved(opt())
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_hub_id_offline_is_one_clear_error():
    for refused in (load_config, load_tokenizer):
        with pytest.raises(
            UsageError, match=r"^--model no/such-model: there is no such folder here; from the hub: cannot load it"
        ):
            refused("no/such-model")


def test_adapter_comes_with_the_base_model_it_names(saved, tmp_path, tiny_tokenizer):
    from model_zoo import causal_closure, with_adapter

    folder = saved(opt())
    tiny_tokenizer.save_pretrained(folder)
    model = with_adapter(opt, "lora").eval()
    model.peft_config["default"].base_model_name_or_path = str(folder)
    model.save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = load_adapter(str(tmp_path / "adapter"), dtype=torch.float32, device=CPU)
    assert torch.equal(causal_closure(loaded.eval())(), causal_closure(model)())
    assert len(tokenizer) == len(tiny_tokenizer)
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match=r"^--model .*adapter is an adapter: --model .*model: there is no such folder"):
        load_adapter(str(tmp_path / "adapter"), dtype=torch.float32, device=CPU)


# ---------------------------------------------------------------- devices


@pytest.mark.parametrize("device", ["disk", "meta", "balanced", "sequential"])
def test_devices_that_offload_are_refused_with_the_reason(device):
    with pytest.raises(UsageError, match=rf"^--device {device}: there is no engine yet for weights that are spread"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "0", ""])
def test_unknown_devices_are_refused(device):
    with pytest.raises(UsageError, match=rf"^--device must be auto, cpu, cuda or cuda:N, got '{device}'"):
        resolve_device(device)


def test_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(UsageError, match=r"^--device cuda: PyTorch finds no CUDA devices"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"^--device cuda:2: PyTorch finds 2 CUDA devices"):
        resolve_device("cuda:2")


# ---------------------------------------------------------------- tokenizers


def test_folder_without_tokenizer_files_is_refused(saved):
    """Transformers would make an empty tokenizer of the model's type."""
    with pytest.raises(UsageError, match=r"^--model .*model: it has no tokenizer"):
        load_tokenizer(str(saved(qwen2())))


def llama3_like(tokenizer_of):
    """A pre-tokenizer of the cl100k kind, BOS from the post-processor, no pad token, no `add_bos_token`."""
    return tokenizer_of(bos="<|begin_of_text|>", eos="<|end_of_text|>", adds_bos=True)


def qwen_like(tokenizer_of):
    """The same without a BOS, with its end-of-text token as padding."""
    return tokenizer_of(bos=None, eos="<|endoftext|>", adds_bos=False, pad_token="<|endoftext|>")


def without_eos(tokenizer_of):
    """A BOS that is there and not put in front, and nothing that ends a text."""
    return tokenizer_of(bos="<s>", eos=None, adds_bos=False)


@pytest.fixture
def tokenizer_of():
    """Function that makes a byte-level BPE which splits text as Llama 3 and Qwen do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def make(*, bos, eos, adds_bos, **others):
        special = [token for token in (bos, eos) if token]
        core = Tokenizer(models.BPE())
        pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        core.train_from_iterator(
            ["It was great", "It was terrible", "Is it true?\nYes", "Is it true?\nNo"] * 4, trainer
        )
        if adds_bos:
            core.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", special_tokens=[(bos, special.index(bos))]
            )
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, **others)

    return make


@pytest.mark.parametrize(
    ("make", "has_bos"),
    [(llama3_like, True), (qwen_like, False), (without_eos, False)],
    ids=["llama3", "qwen", "without_eos"],
)
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_quirks_of_a_saved_tokenizer_are_found_by_rule(saved, tokenizer_of, make, has_bos, padding_side):
    """BOS by looking at an encoding; neither a pad token nor a padding side is needed for a batch."""
    folder = saved(opt())
    make(partial(tokenizer_of, padding_side=padding_side)).save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    assert loaded.padding_side == padding_side
    assert adds_bos(loaded) is has_bos
    example = Example(prompt="Is it true?\n", candidates=("Yes", "No"), correct=(1,))
    short = Example(prompt="It was", candidates=(" great", " terrible"), correct=(0,))
    rows = encode_examples([example, short], loaded)
    for row, source in zip(rows, (example, short), strict=True):
        for ids, length, option in zip(row.token_ids, row.option_lengths, source.candidates, strict=True):
            assert loaded.decode(ids[-length:]) == option
            assert (ids[0] == loaded.bos_token_id) is has_bos
            assert list(ids) == loaded(source.prompt + option)["input_ids"]
    ClassificationObjective().collate(rows)  # padded by position: no pad token is looked for


@pytest.mark.parametrize(("make", "in_front"), [(llama3_like, "bos_token_id"), (qwen_like, "eos_token_id")])
def test_empty_prompt_has_bos_or_end_of_text_in_front(tokenizer_of, make, in_front):
    tokenizer = make(tokenizer_of)
    row = encode_examples([Example(prompt="", candidates=("Yes",), correct=(0,))], tokenizer)[0]
    assert row.token_ids[0][0] == getattr(tokenizer, in_front)
    assert row.option_lengths == (len(row.token_ids[0]) - 1,)


def test_what_needs_an_eos_says_so(tokenizer_of):
    tokenizer = without_eos(tokenizer_of)
    with pytest.raises(UsageError, match="neither a BOS nor an end-of-text token"):
        encode_examples([Example(prompt="", candidates=("Yes",), correct=(0,))], tokenizer)
    with pytest.raises(IncompatibleError, match="should be followed by an end-of-text token, and the tokenizer has no"):
        encode_examples([Example(prompt="It was", candidates=(" great",), correct=(0,), ends_text=True)], tokenizer)
