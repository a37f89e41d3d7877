"""LOZO's commands for large models."""

from __future__ import annotations

import pytest

from migrated import asked, migrated, told, train_config


@pytest.mark.parametrize(("lr", "rank", "interval"), [(1e-6, 1, 50), (1e-7, 2, 50), (1e-7, 1, 100), (1e-6, 2, 100)])
def test_the_recommended_range(lr, rank, interval):
    variables = f"TASK=SST2 MODE=ft LR={lr} EPS=1e-3 RANK={rank} STEP_INTERVAL={interval}"
    migration = migrated(f"MODEL=facebook/opt-13b {variables} bash lozo.sh")
    assert asked(train_config(migration)) == {
        "model": "facebook/opt-13b",
        "task": "sst2",
        "dtype": "float16",
        "tuning.name": "full",
        "method.name": "lozo",
        "method.rank": rank,
        "method.interval": interval,
        "lr": lr,
        "zo_eps": 1e-3,
        "num_train": 1000,
        "num_dev": 500,
        "num_eval": 1000,
        "eval_steps": 4000,
    }
    assert any("matrix_lr_scale" in note.text for note in migration.notes)


def test_the_defaults_of_the_script():
    config = train_config(migrated("MODEL=facebook/opt-13b bash lozo.sh"))
    assert (config.task, config.lr, config.method["rank"], config.method["interval"]) == ("drop", 1e-7, 1, 100)


def test_flags_of_run_py():
    run = "python run.py --model_name m --task_name SST2 --learning_rate 1e-7 --rank_r 4 --trainer"
    for trainer in ("zo", "LOZO"):
        method = train_config(migrated(f"{run} {trainer}")).method
        assert (method["name"], method["rank"], method["interval"]) == ("lozo", 4, 50)
    regular = migrated(f"{run} regular")
    assert "--rank_r 4" in told(regular, "ignored there")


def test_the_recipe_file_is_this_command():
    from pathlib import Path

    from foretune.cli.train import parse

    recipe = Path(__file__).resolve().parents[3] / "recipes" / "lozo-opt-13b-sst2.yaml"
    command = "MODEL=facebook/opt-13b TASK=SST2 LR=1e-6 EPS=1e-3 RANK=2 STEP_INTERVAL=50 bash lozo.sh"
    theirs = asked(parse(["--config", str(recipe)]))
    del theirs["config"]
    assert {**theirs, "dtype": "float16", "tuning.name": "full"} == asked(train_config(migrated(command)))
