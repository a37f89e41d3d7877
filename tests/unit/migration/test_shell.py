"""Runs in what a user pastes."""

from __future__ import annotations

import pytest

from foretune.errors import UsageError
from foretune.migration.shell import Run, read_script, run_of_words


def _only(text: str) -> Run:
    (run,) = read_script(text).runs
    return run


def test_a_command_over_several_lines():
    run = _only("python run.py \\\n  --a=1 \\\n  --b 'two words' # a remark\n")
    assert (run.program, run.arguments, run.line) == ("run.py", ["--a=1", "--b", "two words"], 1)


def test_variables_in_front_and_paths():
    run = _only("CUDA_VISIBLE_DEVICES=0 LR=1e-6 bash examples/mezo.sh --x")
    assert (run.program, run.arguments) == ("mezo.sh", ["--x"])
    assert run.variables == {"CUDA_VISIBLE_DEVICES": "0", "LR": "1e-6"}


@pytest.mark.parametrize(
    ("text", "launcher"),
    [
        ("python3.10 -u large_models/run.py --x", ()),
        ("./run.py --x", ()),
        ("--x", ()),
        ("nohup python run.py --x > log.txt 2>&1 &", ()),
        ("torchrun --nproc_per_node=4 run.py --x", ("torchrun", "--nproc_per_node=4")),
        ("accelerate launch --config_file a.yaml run.py --x", ("accelerate", "launch", "--config_file", "a.yaml")),
        ("python -m torch.distributed.launch run.py --x", ("-m", "torch.distributed.launch")),
    ],
)
def test_how_a_script_is_started(text, launcher):
    run = _only(text)
    assert run.program == "run.py"
    assert run.arguments == ["--x"]
    assert run.launcher == launcher


def test_a_script_assigns_and_uses():
    script = read_script(
        "#!/bin/bash\n"
        "cd large_models\n"
        "LR=${LR:-1e-6}\n"
        "EPS=1e-3\n"
        'ARGS="--lora --lora_r 8"\n'
        'python run.py --lr $LR --eps "${EPS}" --out run-$LR-${SEED:-0} $ARGS "$@" | tee log\n'
    )
    (run,) = script.runs
    assert run.arguments == ["--lr", "1e-6", "--eps", "1e-3", "--out", "run-1e-6-0", "--lora", "--lora_r", "8"]
    assert run.line == 6
    assert script.others == ((2, "cd large_models"), (6, "tee log"))


def test_only_exported_variables_reach_another_script():
    run = _only("A=1\nexport TASK=SST2\nLR=1e-6 bash mezo.sh\n")
    assert run.variables == {"TASK": "SST2", "LR": "1e-6"}


def test_several_runs_on_lines_of_their_own():
    runs = read_script("python run.py --a && python run.py --b\n\npython run.py --c; python run.py --d").runs
    assert [(run.arguments, run.line) for run in runs] == [(["--a"], 1), (["--b"], 1), (["--c"], 3), (["--d"], 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("for LR in 1e-6 1e-7; do\n  python run.py --lr $LR\ndone", r"Line 2: \$LR depends on line 1"),
        ('if [ "$MODE" == "lora" ]; then\n  X=--lora\nfi\npython run.py $X', r"Line 4: \$X depends on line 2"),
        ("python run.py --lr $LR", r"\$LR has no value here"),
        ("N=$(ls | wc -l)\npython run.py --n $N", "command inside a command"),
        ("python run.py --n `date`", "computed by the shell"),
        ("M=${MODEL//x/y}\npython run.py --m $M", r"Line 2: \$M depends on line 1"),
        ("python run.py --x 'open", "Line 1: a quotation is not closed"),
    ],
)
def test_what_would_have_to_be_run_is_named(text, message):
    with pytest.raises(UsageError, match=message):
        read_script(text)


def test_what_a_condition_decides_matters_only_where_it_is_used():
    assert _only("if true; then\n  TAG=x\nfi\npython run.py --a").arguments == ["--a"]


def test_words_without_a_script_are_refused():
    with pytest.raises(UsageError, match="runs no script"):
        run_of_words(["ls", "-l"])
    assert run_of_words(["TASK=SST2", "bash", "mezo.sh"]).variables == {"TASK": "SST2"}
