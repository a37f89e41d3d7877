"""What `foretune bench step` measures: floor, published way and steps in turns, on every scheme and objective."""

import pytest
import torch

from foretune.engine import ENGINES
from foretune.errors import UsageError
from foretune.runs import step_bench
from foretune.runs.config import StepBenchConfig
from foretune.runs.csv_rows import read_rows
from foretune.runs.step_bench import run_step_bench
from foretune.runs.step_row import (
    FLOOR,
    FORWARD_TO_FLOOR,
    PUBLISHED,
    SHARE,
    SPEED_UP,
    STEP,
    TO_FLOOR,
    Row,
    Workload,
    parse_tokens,
)
from foretune.runs.timing import PARTS

SIZES = {"batch": [2], "tokens": ["6"], "device": "cpu", "repeats": 1}


def figures(table):
    return {(row.label, row.what): row.value for row in table.rows}


def test_rows_of_a_table(tmp_path):
    path = tmp_path / "step.csv"
    before = torch.get_rng_state()
    config = StepBenchConfig(**SIZES, methods=["mezo", "lozo"], engines=list(ENGINES[1:]), csv=str(path))
    (table,) = run_step_bench(config)

    found = figures(table)
    names = [f"mezo, {engine}" for engine in ENGINES[1:]] + [f"lozo, {engine}, rank 2" for engine in ENGINES[1:]]
    assert list(dict.fromkeys(name for name, _ in found)) == [FLOOR, PUBLISHED, *names]
    assert found[PUBLISHED, TO_FLOOR] == pytest.approx(found[PUBLISHED, STEP] / found[FLOOR, STEP])
    for name in names:
        parts = [found[name, part] for part in PARTS]
        assert sum(parts) == pytest.approx(found[name, STEP])
        assert min(parts[:3]) > 0
        assert found[name, SHARE] == pytest.approx((parts[1] + parts[2]) / found[name, STEP])
        assert found[name, TO_FLOOR] == pytest.approx(found[name, STEP] / found[FLOOR, STEP])
        assert found[name, FORWARD_TO_FLOOR] == pytest.approx(parts[0] / found[FLOOR, STEP])
        assert found[name, SPEED_UP] == pytest.approx(found[PUBLISHED, STEP] / found[name, STEP])

    kept = read_rows(path, Row)
    assert [row.key for row in kept] == [row.key for row in table.rows]
    assert len({row.key for row in kept}) == len(kept)
    layer = 4 * (256 + 1) * 256 + (256 + 1) * 1024 + (1024 + 1) * 256 + 4 * 256
    assert kept[0].num_parameters == (4096 + 514) * 256 + 4 * layer + 2 * 256
    assert {(row.model, row.dtype, row.device, row.objective) for row in kept} == {
        ("mini", "float32", "cpu", "classification")
    }
    assert torch.equal(torch.get_rng_state(), before)


def test_every_scheme_and_objective_has_a_table():
    config = StepBenchConfig(
        **SIZES,
        methods=["zobcd", "mezo"],
        tuning=["full", "lora", "prefix", "prompt"],
        objective=["classification", "lm"],
        skip_published=True,
    )
    seen = []
    tables = run_step_bench(config, lambda table: seen.append(table))
    assert seen == tables
    places = [(table.workload.tuning, table.workload.objective) for table in tables]
    assert places == [(t, o) for t in ("full", "lora", "prefix", "prompt") for o in ("classification", "lm")]
    for table in tables:
        methods = {row.method for row in table.rows}
        if table.workload.tuning == "lora":
            assert (methods, table.left_out) == ({FLOOR, "mezo", "zobcd"}, [])
        else:
            assert methods == {FLOOR, "mezo"}
            ((contestant, reason),) = table.left_out
            assert contestant == "zobcd/auto"
            assert "not defined for --tuning" in reason


def test_settings_and_sizes_are_swept():
    config = StepBenchConfig(
        methods=["lozo"],
        num_directions=[1, 3],
        rank=[2, 4],
        batch=[1, 2],
        tokens=["3-4"],
        engines=["layerwise"],
        device="cpu",
        repeats=1,
    )
    tables = run_step_bench(config)
    assert [(t.workload.batch, t.workload.tokens) for t in tables] == [(1, "3-4"), (2, "3-4")]
    found = figures(tables[0])
    assert [name for name, what in found if what == TO_FLOOR][1:] == [
        f"lozo, layerwise, {q}rank {rank}" for q in ("", "q 3, ") for rank in (2, 4)
    ]
    # three directions are six forwards, as three floors and three published steps
    name = "lozo, layerwise, q 3, rank 2"
    assert found[name, TO_FLOOR] == pytest.approx(found[name, STEP] / (3 * found[FLOOR, STEP]))
    assert found[name, SPEED_UP] == pytest.approx(3 * found[PUBLISHED, STEP] / found[name, STEP])


def test_states_that_do_not_fit_together_take_turns_in_groups(monkeypatch):
    monkeypatch.setattr(step_bench, "_memory_bytes", lambda device: 1)
    floors = []
    monkeypatch.setattr(
        step_bench,
        "interleave",
        lambda cases, repeats: floors.append(list(cases)) or {n: [c()] for n, c in cases.items()},
    )
    config = StepBenchConfig(
        **SIZES, methods=["zo_adam", "zo_momentum", "mezo"], skip_published=True, engines=["layerwise"]
    )
    (table,) = run_step_bench(config)
    assert floors == [[FLOOR, "zo_adam/layerwise"], [FLOOR, "zo_momentum/layerwise"], [FLOOR, "mezo/layerwise"]]
    assert [row.what for row in table.rows if row.method == FLOOR] == [STEP]


def test_what_does_not_fit_is_left_out(monkeypatch):
    def out_of_memory(optimizer, *args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_bench, "TimedStep", out_of_memory)
    (table,) = run_step_bench(StepBenchConfig(**SIZES, methods=["mezo"], skip_published=True))
    assert table.left_out == [("mezo/auto", "out of memory")]
    assert {row.method for row in table.rows} == {FLOOR}


def test_the_published_way_may_not_fit_either(monkeypatch):
    def out_of_memory(self, closure):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_bench.published_way.PublishedMeZO, "step", out_of_memory)
    (table,) = run_step_bench(StepBenchConfig(**SIZES, methods=["mezo"]))
    assert table.left_out == [(PUBLISHED, "out of memory")]
    assert TO_FLOOR in {row.what for row in table.rows}
    assert SPEED_UP not in {row.what for row in table.rows}


def test_lengths_of_rows():
    load = Workload(
        model="m", num_parameters=1, dtype="d", device="cpu", tuning="full", objective="lm", batch=4, tokens="9-18"
    )
    assert load.lengths == [18, 15, 12, 9]
    assert parse_tokens("48") == (48, 48)
    for wrong in ("1", "9-", "x", "9-8", "-3", "1-4"):
        with pytest.raises(UsageError, match="--tokens"):
            parse_tokens(wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ["opt-12b"]}, "Did you mean: opt-13b"),
        ({"methods": ["mezzo"]}, "Did you mean: mezo"),
        ({"methods": ["zobcd"]}, "'zobcd' is not defined for --tuning full"),
        ({"methods": ["mezo"], "rank": [2]}, "'mezo' has no option 'rank'"),
        ({"rank": [0]}, "--rank must be at least 1, got 0"),
        ({"tuning": ["lore"]}, "lora"),
        ({"engines": ["layer"]}, "--engines layer: there is no such engine"),
        ({"tokens": ["513"]}, "mini has 512 positions"),
        ({"tokens": ["510"], "tuning": ["prompt"]}, "10 of which virtual tokens take"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"csv": "nowhere/x.csv"}, "--csv nowhere/x.csv: give a .csv file"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(options, message, monkeypatch):
    monkeypatch.setattr(step_bench, "random_model", None)
    with pytest.raises(UsageError, match=message):
        run_step_bench(StepBenchConfig(device="cpu", **options))


def test_a_table_of_other_columns_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(UsageError, match="has columns a, b"):
        run_step_bench(StepBenchConfig(csv=str(tmp_path / "x.csv")))
