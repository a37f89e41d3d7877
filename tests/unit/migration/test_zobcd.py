"""The commands of ZOBCD-LoRA."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import asked, migrated, told, train_config

MODELS = {
    "facebook/opt-1.3b": "--load_float16",
    "facebook/opt-13b": "--load_float16",
    "Qwen/Qwen2-7B-Instruct": "--load_bfloat16",
    "meta-llama/Llama-3.2-3B-Instruct": "--load_bfloat16",
    "meta-llama/Llama-3.1-8B-Instruct": "--load_bfloat16",
    "meta-llama/Llama-2-7b-hf": "--load_bfloat16",
}
RUN = (
    "python run.py --task_name={task} --model_name={model} --trainer=zo_sgd --lora --lora_r=8"
    " --lora_alpha=16 --learning_rate=1e-4"
    " --zo_eps=0.01 --per_device_train_batch_size=16 --max_steps=20000 --eval_steps=200 --save_steps=200"
    " --num_train=1000"
    " --num_dev=500 --num_eval=1000 --train_as_classification --lr_scheduler_type=constant"
)


@pytest.mark.parametrize("model", MODELS)
def test_the_script(model):
    migration = migrated(RUN.format(task="SST2", model=model) + f" --lora_bcd {MODELS[model]}")
    assert asked(train_config(migration)) == {
        "model": model,
        "task": "sst2",
        "dtype": MODELS[model].removeprefix("--load_"),
        "tuning.name": "lora",
        "tuning.r": 8,
        "tuning.alpha": 16,
        "method.name": "zobcd",
        "method.preset": "code",
        "lr": 1e-4,
        "zo_eps": 0.01,
        "num_train": 1000,
        "num_dev": 500,
        "num_eval": 1000,
        "eval_steps": 200,
    }
    assert any("bcd_steps_b 201" in note.text for note in migration.notes)


@pytest.mark.parametrize("task", ["SST2", "RTE", "CB", "WSC", "WIC"])
def test_without_the_switch_it_is_mezo(task):
    config = train_config(migrated(RUN.format(task=task, model="facebook/opt-1.3b"), code="zobcd"))
    assert (config.method["name"], config.tuning["name"]) == ("mezo", "lora")


def test_magnitude_groups():
    run = RUN.format(task="SST2", model="facebook/opt-1.3b")
    plain = train_config(migrated(f"{run} --selective"))
    assert plain.method.items() >= {"name": "mgs_bcd", "selective_ratio": 0.5, "bcd": None}.items()
    cycled = train_config(migrated(f"{run} --selective --selective_ratio 0.7 --bcd --adaSelect"))
    assert cycled.method.items() >= {"selective_ratio": 0.7, "bcd": True, "adaselect": True}.items()
    assert told(migrated(f"{run} --bcd", code="zobcd"), "ignored there") == {
        "--bcd": "ZOBCD reads it with --selective only"
    }


def test_what_the_methods_need():
    run = RUN.format(task="SST2", model="facebook/opt-1.3b")
    with pytest.raises(UsageError, match="--lora_bcd has to be off"):
        migrated(f"{run} --lora_bcd --selective")
    with pytest.raises(UsageError, match="give --lora too"):
        migrated(run.replace(" --lora --lora_r=8 --lora_alpha=16", "") + " --lora_bcd")
