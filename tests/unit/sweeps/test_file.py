import pytest

from foretune.errors import UsageError
from foretune.sweeps.file import load_sweep, override, read_sweep
from foretune.sweeps.parameters import Values

PLAIN = """
program: foretune
command: [foretune, train, --output, runs/x, --batch-size, "4", "${args}"]
method: grid
metric: {name: eval_accuracy, goal: maximize}
parameters:
  method: {value: mezo}
  lr: {values: [1e-3, 1e-4]}
early_terminate: {type: hyperband, min_iter: 2}
"""


def read(text):
    return read_sweep(text, place="f", name="f")


def test_a_file_of_wandb_is_read():
    sweep = read(PLAIN)
    assert (sweep.method, sweep.metric, sweep.goal, sweep.pruning.rule) == (
        "grid",
        "dev.accuracy",
        "maximize",
        "hyperband",
    )
    (grid,) = sweep.grids
    assert dict(grid.parameters) == {
        "batch_size": Values(("4",)),  # of the command; its --output is for W&B
        "method": Values(("mezo",)),
        "lr": Values((1e-3, 1e-4)),
    }


def test_grids_share_parameters_and_may_replace_them():
    sweep = read(
        "parameters: {lr: 1.0}\nforward_passes: 10\ngrids: [{zo_eps: 2}, {lr: 3, forward_passes: 20}]\nseeds: [4]"
    )
    seed = Values((4,))
    first, second = sweep.grids
    assert first.parameters == {"lr": Values((1.0,)), "seed": seed, "zo_eps": Values((2,))}
    assert second.parameters == {"lr": Values((3,)), "seed": seed}
    assert (first.forward_passes, second.forward_passes) == (10, 20)


def test_parameters_beside_suites_hold_in_all_their_grids():
    sweep = read("suites: [mini]\nparameters: {model: {value: m}}")
    assert {grid.suite for grid in sweep.grids} == {"mini"}
    assert all(grid.parameters["model"] == Values(("m",)) for grid in sweep.grids)


def test_steps_of_the_command_line_replace_a_budget():
    sweep = override(load_sweep("mini"), {"steps": Values((3,))})
    assert {grid.forward_passes for grid in sweep.grids} == {None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: [", "f: not YAML"),
        ("[1]", "f: expected method, metric and parameters, found a list."),
        ("parameter: {}", "f: unknown key 'parameter'. Did you mean: parameters"),
        ("method: grdi\nparameters: {lr: 1}", "f: method 'grdi' must be one of grid, random, bayes."),
        ("method: grid", "f: there are no parameters."),
        ("parameters: {lr: {values: []}}", "f: parameters.lr.values is empty: give at least one."),
        ("parameters: {lr: {min: 0, max: 1.5}}", "f: parameters.lr is a range, which method grid cannot run through"),
        (
            "parameters: {output: x}",
            "f: parameters.output cannot be set in a sweep: every trial has a folder of its own.",
        ),
        ("parameters: {lr: 1, '--lr': 2}", "f: parameters.--lr is there twice."),
        (
            "metric: {name: final.accuracy}\nparameters: {lr: 1}",
            "f: metric final.accuracy is of test rows; trials are chosen",
        ),
        ("metric: {name: test_acc}\nparameters: {lr: 1}", "f: metric test_acc is of test rows"),
        (
            "metric: {name: dev.accuracyy}\nparameters: {lr: 1}",
            "f: metric 'dev.accuracyy' is not known. Did you mean: dev.acc",
        ),
        (
            "metric: {name: dev.loss, goal: maximize}\nparameters: {lr: 1}",
            "f: metric dev.loss with goal maximize would ch",
        ),
        (
            "metric: dev.loss\nparameters: {lr: 1}",
            "f: metric must be {name: dev.loss, goal: minimize}, got 'dev.loss'.",
        ),
        ("method: random\nparameters: {lr: 1}", "f: method random needs run_cap, the number of trials."),
        ("run_cap: 3\nparameters: {lr: 1}", "f: run_cap 3 has no effect with method grid"),
        (
            "method: bayes\nrun_cap: 2\nparameters: {seed: [0, 1]}",
            "f: parameters: method bayes runs a setting with one seed",
        ),
        (
            "method: bayes\nrun_cap: 2\nparameters: {lr: 1}\nsuites: [mini]",
            "f: method bayes searches one set of parameters",
        ),
        ("suites: [mnii]", "f: suites: there is no 'mnii'. Did you mean: mini?"),
        ("suites: [mini]\ngrids: [{lr: 1}]", "f: suites and grids cannot stand in one file."),
        ("seeds: [0, 0]\nparameters: {lr: 1}", "f: seeds has a seed twice: [0, 0]."),
        ("seeds: 3\nparameters: {lr: 1}", "f: seeds must be a list of whole numbers"),
        ("seeds: [0]\nparameters: {seed: 1}", "f: seeds and parameters.seed contradict each other; keep one."),
        (
            "seeds: [0]\nchosen_seeds: [0, 1]\nparameters: {lr: 1}",
            "f: parameters: chosen_seeds [0] are seeds of every trial",
        ),
        ("forward_passes: 10\nparameters: {steps: 5}", "f: parameters: forward_passes and steps contradict each other"),
        ("forward_passes: 0\nparameters: {lr: 1}", "f: forward_passes must be a whole number above 0, got 0."),
        (
            "early_terminate: {type: grdy}\nparameters: {lr: 1}",
            "f: early_terminate.type must be one of hyperband, median",
        ),
        ("early_terminate: {type: flat, eta: 2}\nparameters: {lr: 1}", "f: early_terminate of type flat has no 'eta'."),
        (
            "command: [python, run.py]\nparameters: {lr: 1}",
            "f: command must call 'foretune train', got 'python run.py'.",
        ),
        ("command: [foretune, train, now]\nparameters: {lr: 1}", "f: command: 'now' is no option of 'foretune train'."),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text, message):
    with pytest.raises(UsageError) as error:
        read(text)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_word_is_a_file_or_a_suite():
    with pytest.raises(UsageError, match=r"x\.yaml: there is no such file"):
        load_sweep("x.yaml")
    with pytest.raises(UsageError, match=r"minni is no file, and no suite\. Did you mean: mini\?"):
        load_sweep("minni")
