"""Rows with large activations: which are kept, when they move, and what a run remembers of them."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foretune import MeZO, Optimizer
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import TwoSided
from foretune.journal import Journal
from foretune.journal import replay as replay_journal
from foretune.parameters import collect_trainables
from foretune.schedules import MagnitudeGroups
from foretune.schedules.activations import watch_outputs
from foretune.schedules.magnitude_groups import largest
from foretune.spaces import LowRank, Masked
from foretune.types import AbstractSpace, AbstractUpdate
from foretune.updates import Conservative, Momentum
from promised import run, state_of
from toys import TOYS, LoRALinear, Quadratic, differing_bits, restore, weights_of

SHORT = {"bcd": True, "count_steps": 4, "half_steps": 3}


class Planted(nn.Module):
    """One adapter on a layer of 6 outputs; row 1 of A and rows 0 and 4 of B have ten times the activation."""

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layer = LoRALinear(5, 6, rank)
        a, b = self.layer.lora_A["default"].weight, self.layer.lora_B["default"].weight
        with torch.no_grad():
            for parameter in self.layer.base_layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            a.copy_(0.1 * torch.eye(rank, 5))
            b.copy_(torch.eye(6, rank) + 0.1)
            a[1] *= 10
            b[[0, 4]] *= 10
        self.register_buffer("inputs", torch.randn(40, 3, 5, generator=generator))

    def forward(self) -> Tensor:
        return self.layer(self.inputs).square().mean()


def build(
    model: nn.Module,
    *,
    lr: float = 1e-3,
    seed: int = 0,
    space: AbstractSpace | None = None,
    update: AbstractUpdate | None = None,
    **options: object,
) -> Optimizer:
    schedule = MagnitudeGroups(**options)
    estimator = TwoSided(zo_eps=1e-3)
    return Optimizer(model, estimator=estimator, space=space, update=update, schedule=schedule, lr=lr, seed=seed)


def factors(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "lora" in name}


def moved_rows(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, list[int]]:
    """By side, the rows in which any bit changed; in those rows every number has."""
    found = {}
    for name, tensor in after.items():
        changed = tensor != before[name]
        assert torch.equal(changed.any(dim=1), changed.all(dim=1))
        found["A" if "lora_A" in name else "B"] = changed.any(dim=1).nonzero().flatten().tolist()
    return found


def test_accept_planted_rows_are_always_kept_and_the_others_rest() -> None:
    """Unselected rows keep their bits."""
    model = Planted()
    optimizer = build(model, selective_ratio=0.5)
    for _ in range(10):
        before = factors(model)
        optimizer.step(model)
        moved = moved_rows(before, factors(model))
        assert len(moved["A"]) == 2
        assert len(moved["B"]) == 3
        assert 1 in moved["A"]
        assert {0, 4} <= set(moved["B"])


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 10])
def test_accept_the_fraction_kept_is_1_minus_s_rounded_up_and_ties(num_rows: int, ratio: float) -> None:
    sizes = torch.rand(num_rows, generator=torch.Generator().manual_seed(0))
    num_kept = math.ceil(round((1 - ratio) * num_rows, 6))
    kept = largest(sizes, ratio)
    assert int(kept.sum()) == num_kept
    assert float(sizes[kept].min()) >= float(torch.cat([sizes[~kept], torch.zeros(1)]).max())
    assert largest(torch.zeros(num_rows), ratio).all()


def test_rows_of_all_forwards_are_those_of_an_oracle() -> None:
    """Both sides of the estimate count: M from the outputs at the perturbed weights, by plain matrix products."""
    model = Planted()
    optimizer = build(model, selective_ratio=0.5)
    sizes = {"A": 0.0, "B": 0.0}

    def closure() -> Tensor:
        a, b = model.layer.lora_A["default"].weight, model.layer.lora_B["default"].weight
        hidden = model.inputs @ a.T
        sizes["A"] += hidden.abs().sum(dim=(0, 1)).detach()
        sizes["B"] += (hidden @ b.T).abs().sum(dim=(0, 1)).detach()
        return model()

    optimizer.engine_name = "in_place"
    optimizer.estimate(closure)
    sizes = {"A": 0.0, "B": 0.0}  # without the audit's forward
    optimizer._pending = None
    before = factors(model)
    optimizer.step(closure)
    expected = {side: sorted(size.topk(math.ceil(size.numel() / 2)).indices.tolist()) for side, size in sizes.items()}
    assert moved_rows(before, factors(model)) == expected


def test_accept_while_b_and_its_activations_are_zero_all_of_its_rows_are_kept() -> None:
    model = Planted()
    with torch.no_grad():
        model.layer.lora_B["default"].weight.zero_()
    trainables = collect_trainables(model)
    with watch_outputs(model, trainables) as sums:
        model()
    kept = [largest(sums[trainable], 0.5) for trainable in trainables]
    assert [int(rows.sum()) for rows in kept] == [2, 6]


@pytest.mark.parametrize("options", [{}, {"bcd": True, "count_steps": 1, "half_steps": 1}], ids=str)
def test_accept_evaluation_between_steps_changes_nothing(options: dict[str, object]) -> None:
    """Neither weights nor votes nor hooks."""
    results = []
    for evaluates in (False, True):
        model = Planted()
        optimizer = build(model, **options)
        for _ in range(6):
            optimizer.step(model)
            if evaluates:
                inputs = model.inputs.clone()
                model.inputs.mul_(-3.0)
                model.eval()()
                model.inputs.copy_(inputs)
        results.append({name: t for name, t in state_of(optimizer).items() if name != "inputs"})
    assert differing_bits(*results) == []


def test_accept_a_ratio_of_zero_is_mezo() -> None:
    """Bit for bit, and with records of the usual size."""
    ours, theirs = TOYS["lora"].net(), TOYS["lora"].net()
    records = run(build(ours, selective_ratio=0.0), ours, 5)
    assert records == run(MeZO(theirs, lr=1e-3, zo_eps=1e-3), theirs, 5)
    assert differing_bits(weights_of(ours), weights_of(theirs)) == []
    assert {record.observation for record in records} == {b""}


def test_a_cycle_counts_then_moves_two_random_halves_of_the_rows_kept_most_often() -> None:
    model = Planted()
    optimizer = build(model, selective_ratio=0.5, **SHORT)
    for cycle in range(2):
        halves = []
        for step in range(4 + 3 + 3):
            before = factors(model)
            (record,) = run(optimizer, model, 1)
            moved = moved_rows(before, factors(model))
            assert bool(record.observation) is (step < 4)
            if step < 4:
                assert moved == {"A": [], "B": []}
            else:
                halves.append(moved)
        assert halves[0] == halves[1] == halves[2] != halves[3] == halves[4] == halves[5]
        for side, num_kept, planted in (("A", 2, {1}), ("B", 3, {0, 4})):
            first, second = set(halves[0][side]), set(halves[3][side])
            assert not first & second
            assert len(first) == (num_kept + 1) // 2
            assert len(first | second) == num_kept
            assert planted <= first | second, cycle


def test_halves_are_drawn_anew_in_each_cycle_and_for_each_seed() -> None:
    drawn = {}
    for seed in range(2):
        optimizer = build(Planted(rank=4), selective_ratio=0.0, seed=seed, **SHORT)
        for step in (4, 14, 24):
            trainable = optimizer.trainables[1]  # six rows of B, all kept: 20 pairs of halves
            optimizer.parts.schedule.absorb(0, b"", optimizer.tensor_states, seed=seed)
            state = optimizer.tensor_states[trainable]
            rows = optimizer.parts.schedule.rows(trainable, state, step=step, seed=seed)
            drawn[seed, step] = tuple(sorted(rows.tolist()))
    assert {len(rows) for rows in drawn.values()} == {3}
    assert len(set(drawn.values())) > 3


@pytest.mark.parametrize("options", [{}, SHORT], ids=["plain", "bcd"])
def test_journal_and_checkpoint_carry_what_was_observed(tmp_path: Path, options: dict[str, object]) -> None:
    """A replay of the file and a resume at any step give the bits of the run; the rest takes 50 bytes a step."""
    model = TOYS["lora"].net()
    settings = {"update": Momentum(), "lr": 0.01, **options}
    optimizer, checkpoints = build(model, **settings), []
    optimizer.record_to(tmp_path / "journal")
    for _ in range(12):
        checkpoints.append(copy.deepcopy((weights_of(model), optimizer.state_dict())))
        optimizer.step(model)
    optimizer.journal.close()
    journal = Journal.read(tmp_path / "journal")
    sizes = [b - a for a, b in zip(journal.offsets, [*journal.offsets[1:], journal.valid_end], strict=True)]
    num_bytes = -(-sum(trainable.shape[0] for trainable in optimizer.trainables) // 8)
    assert set(sizes) == ({50 + 4 + num_bytes} if not options else {50, 50 + 4 + num_bytes})

    replayed = build(TOYS["lora"].net(), **settings)
    replay_journal(replayed, journal)
    assert differing_bits(state_of(optimizer), state_of(replayed)) == []
    for num_done, (weights, state) in enumerate(checkpoints):
        resumed = build(TOYS["lora"].net(), **settings)
        restore(resumed.model, weights)
        resumed.load_state_dict(state)
        for record in journal.steps[num_done : num_done + 3]:
            resumed.replay(record)
        run(resumed, resumed.model, max(0, 12 - num_done - 3))
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []


STALE = [3.0, 2.0, 2.5, 2.0, 2.1, 2.2, 2.3, 2.4, 2.5]
"""Dev metrics, of which the second one is the best."""


def test_accept_adaselect_moves_s_from_05_to_07_to_09_after_patience_evaluations_without_improvement() -> None:
    model = Planted(rank=5)
    optimizer = build(model, adaselect=True, patience=2)
    kept = []
    for metric in [*STALE, 1.0, 1.0]:
        before = factors(model)
        optimizer.step(model)
        moved = moved_rows(before, factors(model))
        kept.append((len(moved["A"]), len(moved["B"])))
        assert 1 in moved["A"]
        optimizer.report(metric)
    per_level = {s: (math.ceil(round((1 - s) * 5, 6)), math.ceil(round((1 - s) * 6, 6))) for s in (0.5, 0.7, 0.9)}
    # reports 3 and 4 are the first two that do not improve: the fifth step is the first one at 0.7
    assert kept == [per_level[0.5]] * 4 + [per_level[0.7]] * 2 + [per_level[0.9]] * 5


def test_adaselect_begins_at_the_ratio_given() -> None:
    model = Planted(rank=5)
    optimizer = build(model, adaselect=True, patience=1, selective_ratio=0.6)
    counts = []
    for _ in range(4):
        before = factors(model)
        optimizer.step(model)
        counts.append(len(moved_rows(before, factors(model))["A"]))
        optimizer.report(1.0)
    assert counts == [2, 2, 2, 1]  # 0.6, 0.6 (the first report is the best), 0.7, 0.9


def test_with_bcd_a_new_ratio_holds_from_the_next_counting_step_on() -> None:
    """It was raised while rows moved: that cycle's halves stay as they are."""
    model = Planted(rank=5)
    optimizer = build(model, adaselect=True, patience=1, **SHORT)
    counts = []
    for step in range(20):
        if step in (5, 6, 8, 12):
            optimizer.report(1.0)
        before = factors(model)
        optimizer.step(model)
        counts.append(len(moved_rows(before, factors(model))["B"]))
    # 0.5 of six rows in halves of 2 and 1; after two rises and one more report 0.9 of them rest
    assert counts == [0] * 4 + [2] * 3 + [1] * 3 + [0] * 4 + [1] * 3 + [0] * 3


def test_reports_change_nothing_without_adaselect() -> None:
    results = []
    for reports in (False, True):
        model = Planted()
        optimizer = build(model)
        for _ in range(4):
            optimizer.step(model)
            if reports:
                optimizer.report(1.0)
        results.append(state_of(optimizer))
    assert differing_bits(*results) == []


@pytest.mark.parametrize("options", [{}, SHORT], ids=["plain", "bcd"])
def test_with_adaselect_a_replay_needs_no_reports_and_a_resume_goes_on_with_them(
    tmp_path: Path, options: dict[str, object]
) -> None:
    """Weights are equal bit for bit; what was best so far is in checkpoints, but in no journal."""
    settings = {"update": Momentum(), "lr": 0.01, "adaselect": True, "patience": 1, **options}
    model = TOYS["lora"].net()
    optimizer, checkpoints = build(model, **settings), []
    optimizer.record_to(tmp_path / "journal")
    metrics = {1: 2.0, 3: 2.0, 5: 1.0, 12: 1.5, 13: 1.5}

    def go_on(run_of: Optimizer, num_steps: int) -> None:
        for _ in range(num_steps):
            run_of.step(run_of.model)
            if run_of.num_steps in metrics:
                run_of.report(metrics[run_of.num_steps])

    for _ in range(16):
        checkpoints.append(copy.deepcopy((weights_of(model), optimizer.state_dict())))
        go_on(optimizer, 1)
    optimizer.journal.close()
    declared = sum(optimizer.parts.schedule.num_state_elements(trainable) for trainable in optimizer.trainables)
    names = optimizer.parts.schedule.state_names
    states = [state.tensors for state in optimizer.tensor_states.values()]
    assert sum(state[name].numel() for state in states for name in names if name in state) == declared

    replayed = build(TOYS["lora"].net(), **settings)
    replay_journal(replayed, Journal.read(tmp_path / "journal"))
    assert differing_bits(weights_of(model), weights_of(replayed.model)) == []
    for ours, theirs in zip(states, (state.tensors for state in replayed.tensor_states.values()), strict=True):
        assert torch.equal(ours["level_of_votes"], theirs["level_of_votes"])
        assert float(ours["level"]) == float(theirs["level"]) == 2
    for num_done, (weights, state) in enumerate(checkpoints):
        resumed = build(TOYS["lora"].net(), **settings)
        restore(resumed.model, weights)
        resumed.load_state_dict(state)
        go_on(resumed, 16 - num_done)
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []


def test_adaselect_without_any_report_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("foretune.schedules.magnitude_groups._SILENT_STEPS", 3)
    for reports, bcd in itertools.product((False, True), (False, True)):
        model = Planted()
        optimizer = build(model, adaselect=True, **(SHORT if bcd else {}))
        caplog.clear()
        for _ in range(6):
            optimizer.step(model)
            if reports:
                optimizer.report(1.0)
        said = [message for message in caplog.messages if "No metric was reported in the first 3 steps" in message]
        assert len(said) == (0 if reports else 1)


def test_accept_perturb_selected_measures_the_rows_that_move_and_no_others() -> None:
    """They are the rows kept at the step before, at first all; the estimate is MeZO's on them."""
    model = Planted()
    optimizer = build(model, perturb_selected=True, lr=1e-3)
    optimizer.engine_name = "in_place"
    before, kept = factors(model), None
    for step in range(6):
        seen: list[dict[str, Tensor]] = []

        def closure(seen: list[dict[str, Tensor]] = seen) -> Tensor:
            seen.append(factors(model))
            return model()

        optimizer.step(closure)
        measured = [moved_rows(before, weights) for weights in seen[-2:]]
        after = factors(model)
        moved = moved_rows(before, after)
        assert measured == [moved, moved]
        assert kept is None or moved == kept
        assert len(moved["A"]) == (2 if step else 4)
        for name, tensor in after.items():
            direction = (seen[-2][name] - seen[-1][name]) / 2e-3  # the two sides; zero in rows at rest
            expected = before[name] - 1e-3 * optimizer.last_record.scalars[0] * direction
            assert torch.allclose(tensor, expected, atol=2e-4)
        bits = torch.cat([state.tensors["row_votes"] for state in optimizer.tensor_states.values()])
        sides = ["A" if "lora_A" in trainable.name else "B" for trainable in optimizer.trainables]
        sizes = [trainable.shape[0] for trainable in optimizer.trainables]
        kept = {side: rows.nonzero().flatten().tolist() for side, rows in zip(sides, bits.split(sizes), strict=True)}
        assert 1 in kept["A"]
        assert {0, 4} <= set(kept["B"])
        before = after


def test_perturb_selected_is_unbiased_on_its_rows_with_less_variance() -> None:
    """Rows at rest add no noise: on a linear loss the variance is that of the rows measured."""
    errors = {}
    for selected in (False, True):
        total, count = torch.zeros(6, 4, dtype=torch.float64), 120
        squares = 0.0
        for seed in range(count):
            model = Planted()
            optimizer = build(model, perturb_selected=selected, lr=0.0, seed=seed)
            run(optimizer, model, 1)  # after which two of four rows of A and three of six of B are measured
            optimizer.estimate(model)
            estimate = dict(optimizer.gradient_estimates())[optimizer.trainables[1]].double()
            total += estimate / count
            squares += float(estimate[[0, 4]].square().sum()) / count
        model.zero_grad()
        model().backward()
        gradient = model.layer.lora_B["default"].weight.grad[[0, 4]].double()
        assert (total[[0, 4]] - gradient).norm() < 5 * math.sqrt(squares / count)
        errors[selected] = squares
        if selected:
            assert int((total == 0).all(dim=1).sum()) == 3
    assert errors[True] < 0.95 * errors[False]


@pytest.mark.parametrize("engine", ["layerwise", "in_place"])
def test_with_perturb_selected_replay_and_resume_give_the_bits_of_the_run(tmp_path: Path, engine: str) -> None:
    settings = {"update": Momentum(), "lr": 0.01, "perturb_selected": True}
    model = TOYS["lora"].net()
    optimizer, checkpoints = build(model, **settings), []
    optimizer.engine_name = engine
    optimizer.record_to(tmp_path / "journal")
    for _ in range(8):
        checkpoints.append(copy.deepcopy((weights_of(model), optimizer.state_dict())))
        optimizer.step(model)
    optimizer.journal.close()
    declared = sum(optimizer.parts.schedule.num_state_elements(trainable) for trainable in optimizer.trainables)
    states = [state.tensors for state in optimizer.tensor_states.values()]
    found = [state[name] for state in states for name in ("row_votes", "measured_rows")]
    assert sum(tensor.numel() for tensor in found) == declared
    journal = Journal.read(tmp_path / "journal")
    replayed = build(TOYS["lora"].net(), **settings)
    assert len([replayed.projected_grads(record) for record in journal.steps]) == 8  # before any step
    replay_journal(replayed, journal)
    assert differing_bits(state_of(optimizer), state_of(replayed)) == []
    for num_done, (weights, state) in enumerate(checkpoints):
        resumed = build(TOYS["lora"].net(), **settings)
        resumed.engine_name = engine
        restore(resumed.model, weights)
        resumed.load_state_dict(state)
        for record in journal.steps[num_done : num_done + 2]:
            resumed.replay(record)
        run(resumed, resumed.model, max(0, 6 - num_done))
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []


def test_an_adapter_that_does_not_run_keeps_all_rows_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = Planted()
    before = factors(model)
    losses = itertools.count(1.0)
    optimizer = build(model)
    optimizer.step(lambda: next(losses))
    assert moved_rows(before, factors(model)) == {"A": [0, 1, 2, 3], "B": [0, 1, 2, 3, 4, 5]}
    assert "No adapter ran while step 0 was measured" in caplog.text


def test_state_is_one_number_a_row() -> None:
    assert build(Planted()).state_bytes == 4 * (4 + 6)


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match="MagnitudeGroups needs LoRA adapters"):
        build(TOYS["full"].net())
    with pytest.raises(IncompatibleError, match="MagnitudeGroups cannot be combined with LowRank"):
        build(Planted(), space=LowRank())
    with pytest.raises(IncompatibleError, match=r"combined with Masked: both mask .* Drop perturb_selected"):
        build(Planted(), space=Masked(), perturb_selected=True)
    with pytest.raises(IncompatibleError, match="MagnitudeGroups cannot be combined with Conservative"):
        build(Planted(), update=Conservative())
    with pytest.raises(IncompatibleError, match=r"'m\.lora_embedding_A' of shape \(2, 40\) belongs to another kind"):
        build(Quadratic({"m.lora_embedding_A": (2, 40), "m.lora_embedding_B": (3, 2)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"selective_ratio": 1.0}, r"selective_ratio must be in \[0, 1\), got 1.0"),
        ({"count_steps": 0}, "count_steps must be at least 1, got 0"),
        ({"half_steps": 0}, "half_steps must be at least 1, got 0"),
        ({"adaselect": True, "patience": 0}, "patience must be at least 1, got 0"),
        ({"patience": 5}, "patience would have no effect"),
        ({"bcd": True, "perturb_selected": True}, "perturb_selected is for rows that are selected at every step"),
        ({"adaselect": True, "selective_ratio": 0.9}, "up to 0.9 and cannot begin at 0.9"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MagnitudeGroups(**options)
