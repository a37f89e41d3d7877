"""Many commands, and how a code is found."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.migration import CODES, migrate, migrate_words
from foretune.migration.translate import find_code
from migrated import train_config

RUN = "python run.py --model_name m --task_name SST2 --learning_rate 1e-6"


def test_every_run_of_a_script_is_translated_and_other_lines_are_named():
    text = f"cd large_models\n# a remark\n{RUN} --trainer zo \\\n  --zo_eps 1e-3\n{RUN} --trainer zo_sgd\n"
    translation = migrate(text)
    assert [migration.origin for migration in translation.migrations] == ["MeZO, run.py", "ZO-LLM, run.py"]
    assert [str(note) for note in translation.notes] == ["line 1: cd large_models"]


def test_an_error_names_its_line():
    with pytest.raises(UsageError, match="Line 2: --learning_rate is missing"):
        migrate(f"{RUN} --trainer zo\npython run.py --model_name m --task_name SST2 --trainer zo\n")


@pytest.mark.parametrize(
    ("flags", "origin"),
    [
        ("--trainer zo", "MeZO"),
        ("--trainer zo --step_interval 50", "LOZO"),
        ("--trainer zo --hessian_smooth_type constant1e-8", "HiZOO"),
        ("--trainer zo_sgd", "ZO-LLM"),
        ("--trainer zo_adamu", "SubZero"),
        ("--trainer zo_sgd --lora --lora_bcd", "ZOBCD"),
        ("--trainer regular --optimizer sgd", "ZO-LLM"),
    ],
)
def test_the_code_that_knows_the_flags(flags, origin):
    (migration,) = migrate(f"{RUN} {flags}").migrations
    assert migration.origin == f"{origin}, run.py"
    train_config(migration)


def test_words_that_a_shell_has_split():
    text = migrate(f"{RUN} --trainer zo").migrations[0]
    assert migrate_words(f"{RUN} --trainer zo".split()) == text
    assert migrate_words(f"{RUN} --trainer zo".split()[2:]) == text


def test_launchers_and_unknown_codes_are_named():
    (migration,) = migrate(f"torchrun --nproc_per_node=4 {RUN[7:]} --trainer zo").migrations
    assert any(note.subject == "torchrun --nproc_per_node=4" for note in migration.notes)
    with pytest.raises(UsageError, match=r"Unknown research code 'zollm'. Did you mean: zo-llm"):
        find_code("zollm")


SAMPLES = {int: "3", float: "0.5", bool: "True", str: "x"}
SILENT = {"efficient_zero_order", "zero_order_optim", "task_name", "trainer"}
"""Flags that change nothing by themselves, or that the command gives anyway."""


@pytest.mark.parametrize("key", CODES)
def test_no_flag_of_a_table_goes_by_in_silence(key):
    """With a value that does not ask for what foretune does anyway, it changes an option, is named, or is refused."""
    model = "--model_name_or_path m --zero_order_optim" if key.endswith("roberta") else "--model_name m"
    trainer = next(iter(getattr(CODES[key], "trainers", ["standard"])))
    command = f"python run.py {model} --task_name RTE --learning_rate 1e-6 --trainer {trainer}"
    plain = migrate(command, key).migrations[0]
    for name, flag in CODES[key].flags.items():
        if name in SILENT or True in flag.neutral:
            continue
        spelled = f"--{name}={SAMPLES[flag.kind]}"
        try:
            (found,) = migrate(f"{command} {spelled}", key).migrations
        except UsageError as error:
            if name in str(error):
                continue
            raise
        assert found.options != plain.options or any(spelled in note.subject for note in found.notes), spelled
