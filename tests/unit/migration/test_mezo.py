"""MeZO's commands: those of its README, and the flags of its run.py."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from migrated import asked, evaluate_config, migrated, told, train_config

RUN = "python run.py --model_name facebook/opt-13b --task_name SST2 --trainer zo --learning_rate 1e-6 --zo_eps 1e-3"
PROTOCOL = (
    " --load_float16 --num_train 1000 --num_dev 500 --num_eval 1000 --train_set_seed 0 --max_steps 20000"
    " --eval_steps 4000"
    " --save_steps 4000 --per_device_train_batch_size 16 --lr_scheduler_type constant --train_as_classification"
    " --load_best_model_at_end --evaluation_strategy steps --save_strategy steps --save_total_limit 1"
    " --logging_steps 10"
)
PUBLISHED = {"dtype": "float16", "num_train": 1000, "num_dev": 500, "num_eval": 1000, "eval_steps": 4000}


@pytest.mark.parametrize(
    ("variables", "extra", "settings"),
    [
        ("TASK=SST2 MODE=ft LR=1e-7 EPS=1e-3", "", {"task": "sst2", "tuning.name": "full", "lr": 1e-7, "zo_eps": 1e-3}),
        (
            "TASK=SST2 MODE=prefix LR=1e-3 EPS=1e-1",
            "",
            {"task": "sst2", "tuning.name": "prefix", "tuning.num_virtual_tokens": 5, "lr": 1e-3, "zo_eps": 0.1},
        ),
        (
            "TASK=SST2 MODE=lora LR=5e-5 EPS=1e-2",
            "",
            {"task": "sst2", "tuning.name": "lora", "tuning.r": 8, "tuning.alpha": 16, "lr": 5e-5, "zo_eps": 1e-2},
        ),
        (
            "TASK=SQuAD MODE=prefix LR=1e-2 EPS=1e-1",
            "--non_diff",
            {
                "task": "squad",
                "objective": "f1",
                "tuning.name": "prefix",
                "tuning.num_virtual_tokens": 5,
                "lr": 1e-2,
                "zo_eps": 0.1,
            },
        ),
        (
            "TASK=Copa MODE=ft LR=1e-6 EPS=1e-3",
            "",
            {"task": "copa", "tuning.name": "full", "lr": 1e-6, "zo_eps": 1e-3, "num_dev": 100},
        ),
    ],
)
def test_the_commands_of_the_readme(variables, extra, settings):
    migration = migrated(f"MODEL=facebook/opt-13b {variables} bash mezo.sh {extra}")
    assert asked(train_config(migration)) == {
        "model": "facebook/opt-13b",
        "method.name": "mezo",
        **PUBLISHED,
        **settings,
    }
    assert migration.origin == "MeZO, mezo.sh"
    assert migration.notes == ()


def test_run_py_says_the_same_as_the_script():
    script = migrated("MODEL=facebook/opt-13b TASK=SST2 LR=1e-6 EPS=1e-3 bash mezo.sh")
    assert train_config(migrated(RUN + PROTOCOL)) == train_config(script)
    assert not told(migrated(RUN + PROTOCOL), "not given")


def test_the_recipe_file_is_this_command():
    """recipes/mezo-opt-13b-sst2.yaml says what the README's command does, but for the dtype."""
    from pathlib import Path

    from foretune.cli.train import parse

    recipe = Path(__file__).resolve().parents[3] / "recipes" / "mezo-opt-13b-sst2.yaml"
    ours = asked(train_config(migrated("MODEL=facebook/opt-13b TASK=SST2 LR=1e-6 EPS=1e-3 bash mezo.sh")))
    theirs = asked(parse(["--config", str(recipe)]))
    del theirs["config"]
    assert {**theirs, "dtype": "float16", "tuning.name": "full"} == ours


def test_what_is_not_given_is_the_published_protocol_and_named():
    migration = migrated(RUN)
    config = train_config(migration)
    assert (config.steps, config.batch_size, config.num_train, config.eval_steps) == (20_000, 16, 1000, 4000)
    assert set(told(migration, "not given")) == {
        *("--num_train", "--num_dev", "--num_eval", "--max_steps", "--eval_steps"),
        *("--per_device_train_batch_size", "--lr_scheduler_type"),
    }
    assert "tested on" in told(migration, "differs")["--num_dev"]


def test_flags_without_counterpart_and_unknown_ones_are_named():
    migration = migrated(
        f"{RUN}{PROTOCOL} --report_to wandb --load_int8 --tag x --zo_epss=1 --gauss_rank 8 stray --verbose"
    )
    assert set(told(migration, "no counterpart")) == {"--report_to wandb", "--load_int8", "--tag x"}
    unknown = told(migration, "unknown")
    assert set(unknown) == {"--zo_epss=1", "--gauss_rank 8", "stray"}
    assert "Did you mean: zo_eps?" in unknown["--zo_epss=1"]


def test_teacher_forcing_is_what_a_missing_flag_means():
    migration = migrated((RUN + PROTOCOL).replace(" --train_as_classification", ""))
    assert train_config(migration).objective == "lm"
    assert "--train_as_classification" in told(migration, "differs")
    assert train_config(migrated(RUN + PROTOCOL + " --train_as_classification False")).objective == "lm"


def test_the_later_of_two_flags_counts():
    migration = migrated(RUN + PROTOCOL + " --eval_steps 500 --save_steps 500")
    assert train_config(migration).eval_steps == 500
    assert told(migration, "ignored there")["--eval_steps 4000"] == "a later --eval_steps 500 overrides it"


def test_schedules_weight_decay_and_accumulation():
    extra = " --lr_scheduler_type linear --warmup_ratio 0.1 --weight_decay 0.1 --gradient_accumulation_steps 2 --seed 3"
    assert (
        asked(train_config(migrated(RUN + PROTOCOL + extra))).items()
        >= {
            "lr_scheduler": "linear",
            "warmup_steps": 2000,
            "method.weight_decay": 0.1,
            "gradient_accumulation_steps": 2,
            "seed": 3,
        }.items()
    )
    migration = migrated(RUN + PROTOCOL + " --lr_scheduler_type polynomial")
    assert train_config(migration).lr_scheduler == "constant"
    assert "--lr_scheduler_type polynomial" in told(migration, "no counterpart")


def test_fine_tuning_counts_epochs_in_steps():
    migration = migrated("MODEL=facebook/opt-1.3b TASK=RTE MODE=lora LR=1e-4 bash finetune.sh")
    settings = {"method.name": "adamw", "steps": 625, "eval_steps": 125, "batch_size": 8, "lr_scheduler": "linear"}
    assert asked(train_config(migration)).items() >= settings.items()
    assert "EPOCH=5" in told(migration, "differs")
    assert "--fp16" in told(migration, "no counterpart")


def test_runs_that_tune_nothing_are_evaluations():
    zero_shot = evaluate_config(migrated("MODEL=facebook/opt-13b TASK=SST2 bash icl.sh --num_train 0"))
    assert (zero_shot.demonstrations, zero_shot.dtype, zero_shot.num_eval) == (0, "float16", 1000)
    assert evaluate_config(migrated("MODEL=m TASK=SST2 bash icl.sh")).demonstrations == 32
    calibrated = evaluate_config(migrated("python run.py --model_name m --task_name RTE --num_train 32 --icl_sfc"))
    assert (calibrated.calibration, calibrated.demonstrations) == ("icl_sfc", 32)
    per_row = evaluate_config(migrated("python run.py --model_name m --task_name RTE --num_train 32"))
    assert per_row.demonstration_sets == "per-row"  # without a seed every test row has demonstrations of its own
    logged = migrated("python run.py --model_name m --task_name RTE --logging_steps 5 --output_dir x --seed 1")
    evaluate_config(logged)
    assert set(told(logged, "no counterpart")) == {"log_steps", "output", "--seed 1"}
    probe = evaluate_config(migrated("python run.py --model_name m --task_name RTE --num_train 1000 --linear_probing"))
    assert (probe.baseline, probe.num_train) == ("linear_probe", 1000)


def test_head_tuning_is_a_baseline_with_a_gradient_only():
    command = "python run.py --model_name m --task_name Copa --head_tuning --learning_rate 1e-4 --num_train 300"
    config = evaluate_config(migrated(f"{command} --trainer regular --num_train_epochs 5"))
    assert (config.baseline, config.lr, config.steps, config.num_train) == ("head_tuning", 1e-4, 190, 300)
    with pytest.raises(UsageError, match=r"--head_tuning .* with Adam only"):
        migrated(f"{command} --trainer zo")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SST2", "SST3", "Unknown task 'sst3'. Did you mean: sst5, sst2"),
        ("--trainer zo", "--trainer zoo", r"no research code has this trainer. Did you mean: zo"),
        ("--learning_rate 1e-6", "", "--learning_rate is missing"),
        ("--model_name facebook/opt-13b", "", "--model_name is missing"),
        ("--task_name SST2", "", "--task_name is missing"),
        ("--zo_eps 1e-3", "--zo_eps small", "--zo_eps takes a number, got 'small'"),
        ("--zo_eps 1e-3", "--non_diff", "--objective accuracy"),
        ("--zo_eps 1e-3", "--lora --prefix_tuning", "--lora is given too"),
        ("SST2", "SQuAD --train_as_classification", "answered by free text"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(old, new, message):
    with pytest.raises(UsageError, match=message):
        migrated(RUN.replace(old, new))
