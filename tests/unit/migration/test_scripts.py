"""Environment variables of shell scripts."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.migration import CODES, migrate
from foretune.migration.scripts import SCRIPTS
from migrated import migrated, told


def test_variables_that_a_script_does_not_read_are_named():
    migration = migrated("CUDA_VISIBLE_DEVICES=0 MODEL=m TASK=SST2 LR=1e-6 EPS=1e-3 RNK=3 TAG=x bash mezo.sh --foo 3")
    assert told(migration, "unknown").keys() == {"RNK=3", "--foo 3"}
    assert told(migration, "no counterpart").keys() == {"TAG=x"}
    assert told(migration, "left out").keys() == {"CUDA_VISIBLE_DEVICES=0"}


def test_flags_behind_a_script_replace_its_own():
    migration = migrated("MODEL=m TASK=SST2 LR=1e-6 bash mezo.sh --max_steps 100 --eval_steps 20")
    assert (migration.options["steps"], migration.options["eval_steps"]) == (100, 20)
    assert not told(migration, "ignored there")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("TASK=SST2 LR=1e-6 bash mezo.sh", "MODEL=... is missing"),
        ("MODEL=m LR=1e-6 bash mezo.sh", "TASK=... is missing"),
        ("MODEL=m TASK=SST2 bash mezo.sh", "LR=... is missing"),
        ("MODEL=m TASK=SST2 LR=1 MODE=lorra bash mezo.sh", "MODE=lorra.*Did you mean: lora"),
        ("MODEL=m TASK=SST2 LR=fast bash mezo.sh", "LR=fast: --learning_rate takes a number"),
        ("TASK=SST2 bash mezzo.sh", "mezzo.sh is no script.*Did you mean: mezo.sh"),
    ],
)
def test_what_is_missing_or_wrong(command, message):
    with pytest.raises(UsageError, match=message):
        migrate(command)


def test_scripts_pass_flags_that_their_code_knows():
    for script in SCRIPTS:
        flags = CODES[script.code].flags
        for name in script.variables.values():
            assert name in flags, (script.name, script.code, name)
        assert set(script.defaults) <= set(script.variables)
        samples = {"MODEL": "m", "TASK": "SST-2", "LR": "1e-6"}
        for flag in script.flags(samples):
            assert flag.name in flags
