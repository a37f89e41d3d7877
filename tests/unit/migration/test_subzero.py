"""The commands of SubZero and its fork: prompt tuning of OPT-1.3B on SST-2, and DOLLY."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import asked, migrated, told, train_config

SST2 = (
    "python run.py --task_name=SST2 --model_name=facebook/opt-1.3b --prompt_tuning --num_virtual_tokens=10"
    " --prompt_init_by_real_tokens --learning_rate=1e-3 --zo_eps=1e-2 --per_device_train_batch_size=16"
    " --max_steps=20000"
    " --eval_steps=500 --save_steps=500 --weight_decay=0 --momentum=0 --num_train=1000 --num_dev=500 --num_eval=1000"
    " --train_as_classification --lr_scheduler_type=constant --load_float16 --perturbation_mode=two_side --q=1"
)
SETTINGS = {
    "model": "facebook/opt-1.3b",
    "task": "sst2",
    "dtype": "float16",
    "tuning.name": "prompt",
    "tuning.num_virtual_tokens": 10,
    "lr": 1e-3,
    "zo_eps": 1e-2,
    "num_train": 1000,
    "num_dev": 500,
    "num_eval": 1000,
    "eval_steps": 500,
}


@pytest.mark.parametrize(
    ("trainer", "method"),
    [
        ("zo_sgd", {"name": "mezo"}),
        ("zo_adamu", {"name": "zo_adamu"}),
        ("zo_muon", {"name": "zo_muon"}),
        ("subzero_sgd --gauss_rank=24 --update_interval=1000", {"name": "subzero", "rank": 24, "interval": 1000}),
        (
            "subzero_adamu --gauss_rank=8 --update_interval=2000",
            {"name": "subzero_adamu", "rank": 8, "interval": 2000},
        ),
        ("subzo_muon", {"name": "subzero_muon", "rank": 8, "interval": 2000}),
        ("sgd", {"name": "sgd"}),
    ],
)
def test_the_commands_of_the_readme(trainer, method):
    migration = migrated(f"{SST2} --trainer={trainer}", code="subzero")
    settings = {name: value for name, value in SETTINGS.items() if trainer != "sgd" or name != "zo_eps"}
    assert asked(train_config(migration)) == settings | {f"method.{name}": value for name, value in method.items()}
    assert not told(migration, "unknown")
    assert not told(migration, "no counterpart")


def test_dolly():
    command = (
        "python run.py --task_name=DOLLY --dolly_data_path=dolly.jsonl --trainer=subzero_sgd --prompt_tuning"
        " --prompt_init_by_real_tokens --model_name=facebook/opt-1.3b --learning_rate=5e-4 --zo_eps=3e-3"
        " --per_device_train_batch_size=1 --gradient_accumulation_steps=1 --max_steps=20000 --num_train=2000"
        " --num_dev=200"
        " --num_eval=200 --max_length=512 --max_new_tokens=128 --num_beams=1 --eval_steps=500"
        " --lr_scheduler_type=constant"
    )
    migration = migrated(command)
    assert (
        asked(train_config(migration)).items()
        >= {
            "task": "dolly",
            "lr": 5e-4,
            "zo_eps": 3e-3,
            "batch_size": 1,
            "max_length": 512,
            "num_train": 2000,
            "num_dev": 200,
            "num_eval": 200,
            "method.rank": 8,
            "method.interval": 2000,
        }.items()
    )
    assert "objective" not in asked(train_config(migration))
    assert "--data-dir" in told(migration, "no counterpart")["--dolly_data_path=dolly.jsonl"]
    assert len(migration.notes) == 1
    longer = migrated(command.replace("128", "64"))
    assert "at most 128" in told(longer, "no counterpart")["--max_new_tokens=64"]


def test_the_code_is_found_by_its_flags_and_trainer():
    migration = migrated(f"{SST2} --trainer=subzero_sgd --gauss_rank=24")
    assert migration.origin == "SubZero, run.py"
    assert migrated(f"{SST2} --trainer=zo_sgd").origin == "ZO-LLM, run.py"
    assert told(migrated(f"{SST2} --trainer=zo_sgd --gauss_rank=24"), "ignored there").keys() == {"--gauss_rank=24"}


def test_annealing():
    command = f"{SST2} --trainer=zo_adamu --zo_adamu_T1=1024 --zo_adamu_T2=16000 --zo_adamu_sigma=1e-8"
    config = train_config(migrated(f"{command} --zo_adamu_beta2_target=0.02"))
    assert config.method.items() >= {"t1": 1024, "t2": 16000, "sigma": 1e-8, "beta2_target": 0.02}.items()
    migration = migrated(f"{SST2} --trainer=zo_adamu --zo_adamu_T1=0")
    assert train_config(migration).method["t1"] is None
    assert "--method.t1 0 follows it" in told(migration, "ignored there")["--zo_adamu_T1=0"]
    migration = migrated(f"{SST2} --trainer=subzero_adamu --zo_adamu_sigma=1e-8")
    assert "--method.v_mode core" in told(migration, "ignored there")["--zo_adamu_sigma=1e-8"]


@pytest.mark.parametrize("rank", [4, 8, 16])
@pytest.mark.parametrize("interval", [500, 1000, 2000])
def test_the_grid_of_lora(rank, interval):
    command = SST2.replace("--prompt_tuning --num_virtual_tokens=10 --prompt_init_by_real_tokens", "--lora")
    config = train_config(migrated(f"{command} --trainer=subzero_sgd --gauss_rank={rank} --update_interval={interval}"))
    assert (config.method["rank"], config.method["interval"], config.tuning["name"]) == (rank, interval, "lora")


@pytest.mark.parametrize("trainer", ["subsgd", "subadam", "submuon"])
def test_first_order_subspaces_are_refused(trainer):
    with pytest.raises(UsageError, match=f"--trainer={trainer} .* use --trainer=sgd or regular"):
        migrated(f"{SST2} --trainer={trainer}")
