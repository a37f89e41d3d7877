"""`--tuning lora | prefix | prompt` from the first step to evaluation, resume and replay."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from foretune.adapters import peft_warnings_hidden
from foretune.cli.main import main
from foretune.cli.train import parse
from foretune.methods import make_method
from foretune.runs import train as train_module

SCHEMES = ["lora", "prefix", "prompt"]
NUM_TRAINABLE = {  # of the tiny models: 2 layers, hidden size 16; LLaMA has values of width 8
    "opt": {"lora": 2 * 2 * 8 * (16 + 16), "prefix": 5 * 2 * 2 * 16, "prompt": 10 * 16},
    "llama": {"lora": 2 * 8 * ((16 + 16) + (16 + 8)), "prefix": 5 * 2 * 2 * 8, "prompt": 10 * 16},
}


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory, tiny_tokenizer):
    """Folder with a LLaMA of two layers, two heads of queries for each of keys and values, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=1, bos_token_id=2,
        eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def words_of(model, rows_dir, output, scheme, *others):
    words = f"train --model {model} --data-dir {rows_dir} --task sst2 --output {output} --device cpu --tuning {scheme}"
    words += " --steps 6 --eval-steps 3 --log-steps 2 --batch-size 4 --num-train 20 --num-dev 8 --num-eval 12"
    return [*words.split(), *others]


@pytest.fixture(scope="module", params=[(model, scheme) for model in NUM_TRAINABLE for scheme in SCHEMES])
def run(request, tiny_model, tiny_llama, rows_dir, tmp_path_factory):
    """A finished run: its folder, its command, the kind of model and the scheme."""
    kind, scheme = request.param
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = words_of({"opt": tiny_model, "llama": tiny_llama}[kind], rows_dir, folder, scheme)
    assert main(words) == 0
    return folder, words, kind, scheme


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_a_run_tunes_the_scheme_and_says_so(run):
    folder, _, kind, scheme = run
    results = json.loads((folder / "results.json").read_text())
    assert results["tuning"] == results["config"]["tuning"]["name"] == scheme
    assert results["num_trainable_parameters"] == NUM_TRAINABLE[kind][scheme]
    assert results["engine"] == "layerwise"
    checkpoints = [adapter(folder / name) for name in ("checkpoint-3", "checkpoint-6")]
    assert not equal(*checkpoints)
    assert sum(tensor.numel() for tensor in checkpoints[0].values()) == NUM_TRAINABLE[kind][scheme]
    assert equal(adapter(folder / "final"), adapter(folder / f"checkpoint-{results['final_model']['step']}"))
    assert not list(folder.rglob("model.safetensors"))


def test_the_final_adapter_loads_in_plain_peft_and_evaluates_as_in_the_run(run, rows_dir, tmp_path):
    from peft import AutoPeftModelForCausalLM

    folder, _, _, _ = run
    with peft_warnings_hidden():
        AutoPeftModelForCausalLM.from_pretrained(folder / "final")
    expected = json.loads((folder / "results.json").read_text())["metrics"]["final"]
    for model in (folder, folder / "final", folder / "checkpoint-6"):
        output = tmp_path / "evaluation.json"
        words = f"evaluate --model {model} --task sst2 --data-dir {rows_dir} --device cpu --output {output}"
        assert main(words.split()) == 0
        found = json.loads(output.read_text())["metrics"]["model"]
        assert (model.name == "checkpoint-6") or found == pytest.approx(expected, rel=1e-5)


def test_replay_rebuilds_the_adapter(run, tmp_path):
    """From base model, seed and journal: bit for bit, whatever number of threads there is."""
    import torch

    folder, _, _, _ = run
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert main(["replay", str(folder), "-o", str(tmp_path / "final")]) == 0
        assert main(["replay", str(folder), "-o", str(tmp_path / "last"), "--step", "6"]) == 0
    finally:
        torch.set_num_threads(before)
    assert equal(adapter(tmp_path / "final"), adapter(folder / "final"))
    assert equal(adapter(tmp_path / "last"), adapter(folder / "checkpoint-6"))
    ours, theirs = (
        json.loads((path / "adapter_config.json").read_text()) for path in (tmp_path / "last", folder / "final")
    )
    assert ours == theirs


class Dies(TrainerCallback):
    """Raises after a step that no checkpoint follows."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_resume_gives_the_bits_of_an_uninterrupted_run(run, tmp_path):
    folder, words, _, _ = run
    words = [str(tmp_path / "again") if word == str(folder) else word for word in words]
    with pytest.raises(KeyboardInterrupt):
        train_module.train(parse(words[1:]), callbacks=[Dies()])
    assert main([*words, "--resume"]) == 0
    for name in ("checkpoint-6", "final"):
        assert equal(adapter(tmp_path / "again" / name), adapter(folder / name))
    for name in ("journal", "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_resolved_configuration_starts_the_same_run(run, tmp_path):
    folder, _, _, scheme = run
    file = folder / "config.yaml"
    assert yaml.safe_load(file.read_text())["tuning"]["name"] == scheme
    assert main(["train", "--config", str(file), "--output", str(tmp_path / "again")]) == 0
    assert equal(adapter(tmp_path / "again" / "final"), adapter(folder / "final"))


def test_an_interrupted_run_refuses_another_adapter_by_name(run, tmp_path, capsys):
    folder, words, _, scheme = run
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "results.json").unlink()
    words = [str(tmp_path / "copy") if word == str(folder) else word for word in words]
    change = ["--tuning.r", "4"] if scheme == "lora" else ["--tuning.init", "random"]
    assert main([*words, "--resume", *change]) == 1
    assert f"setting 'tuning.{change[0].rpartition('.')[2]}' was" in capsys.readouterr().err


def test_half_precision_bases_have_float32_adapters(tiny_model, rows_dir, tmp_path):
    words = words_of(tiny_model, rows_dir, tmp_path / "run", "prefix", "--dtype", "bfloat16", "--tuning.init", "random")
    assert main(words) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["dtype"] == "bfloat16"
    assert {str(tensor.dtype) for tensor in adapter(tmp_path / "run" / "final").values()} == {"torch.float32"}
    assert main(["replay", str(tmp_path / "run"), "-o", str(tmp_path / "again")]) == 0
    assert equal(adapter(tmp_path / "again"), adapter(tmp_path / "run" / "final"))


def test_published_settings_of_the_scheme_are_the_defaults(tiny_model, rows_dir, tmp_path, caplog):
    found = {}
    for scheme in ("full", *SCHEMES):
        method = make_method("mezo", {}, tuning=scheme)
        found[scheme] = (method.lr, method.zo_eps)
    assert found == {"full": (1e-6, 1e-3), "lora": (5e-5, 1e-2), "prefix": (1e-3, 1e-1), "prompt": (1e-3, 1e-2)}
    assert make_method("mezo", {"lr": 0.5}, tuning="prefix").lr == 0.5
    with caplog.at_level(logging.WARNING):
        words = words_of(tiny_model, rows_dir, tmp_path / "run", "lora", "--method", "lozo", "--steps", "1")
        assert main(words) == 0
        assert "No lr is known for --method lozo with --tuning lora" in caplog.text
        caplog.clear()
        words = words_of(tiny_model, rows_dir, tmp_path / "composed", "lora", "--space", "masked", "--steps", "1")
        assert main(words) == 0
    assert "No lr is known" not in caplog.text


def test_yaml_names_a_scheme_or_its_settings(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("tuning: lora\n")
    assert parse(["--config", str(file)]).tuning == {"name": "lora", "r": None, "alpha": None}
    file.write_text("tuning: {name: prompt, num_virtual_tokens: 3}\n")
    assert parse(["--config", str(file), "--tuning.init=random"]).tuning == {
        "name": "prompt",
        "num_virtual_tokens": 3,
        "init": "random",
    }
    assert parse([]).tuning["name"] == "full"


def test_a_prefix_beyond_a_sliding_window_is_refused_before_the_first_step(tiny_tokenizer, rows_dir, tmp_path, capsys):
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    words = words_of(tmp_path / "model", rows_dir, tmp_path / "run", "prefix")
    assert main(words) == 1
    assert "sliding window of 8" in capsys.readouterr().err
    assert not (tmp_path / "run" / "journal").exists()
    assert main([*words, "--resume", "--max-length", "3"]) == 0
