"""Gradient sparsity: rates and limits of masks, what rests under them, and the moments of the estimate."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from foretune import MeZO, Optimizer, noise
from foretune.errors import UsageError
from foretune.estimators import TwoSided
from foretune.noise import LaneMask, MagnitudeMask
from foretune.parameters import collect_trainables
from foretune.spaces import Masked, masked
from foretune.types import TensorState, Trainable
from foretune.updates import SGD, Momentum
from promised import run, state_of
from toys import Net, Quadratic, assert_mean, differing_bits, restore, trainables_of, weights_of


def build(model: nn.Module, *, lr: float = 0.01, seed: int = 0, update=None, num_directions=1, **options) -> Optimizer:
    return Optimizer(
        model,
        space=Masked(**options),
        estimator=TwoSided(zo_eps=1e-3, num_directions=num_directions),
        update=update or SGD(),
        lr=lr,
        seed=seed,
        engine="in_place",
    )


def kept_of(optimizer: Optimizer) -> dict[str, Tensor]:
    """Which entries move at the next step."""
    optimizer._begin_step()
    found = {}
    for trainable, state in optimizer.tensor_states.items():
        space = optimizer.parts.space
        mask = space.mask(trainable, state, seed=optimizer.seed, epoch=space.epoch(optimizer.num_steps))
        ones = torch.ones_like(trainable.parameter, dtype=torch.bool)
        found[trainable.name] = ones if mask is None else noise.kept(mask, trainable.parameter)
    return found


def settings_of(space: Masked, trainables: tuple[Trainable, ...]) -> dict[str, float]:
    states = {trainable: TensorState() for trainable in trainables}
    space.begin_epoch(states, seed=0, epoch=0)
    return {trainable.name: float(state.tensors["mask_setting"]) for trainable, state in states.items()}


def with_values(**values: Tensor) -> tuple[Trainable, ...]:
    return collect_trainables(nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in values.items()}))


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_accept_the_rate_of_zeros_is_s(sparsity: float) -> None:
    """Within 5 standard deviations, independently between tensors and epochs."""
    (first, second), space = trainables_of(a=(400, 500), b=(400, 500)), Masked(sparsity=sparsity)
    masks = [space.mask(first, TensorState(), seed=1, epoch=0), space.mask(second, TensorState(), seed=1, epoch=0)]
    masks.append(space.mask(first, TensorState(), seed=1, epoch=1))
    zeros = [~noise.kept(mask, first.parameter) for mask in masks]
    deviation = 5 * math.sqrt(sparsity * (1 - sparsity) / zeros[0].numel())
    for mask in zeros:
        assert abs(float(mask.double().mean()) - sparsity) < deviation
    for other in zeros[1:]:
        both = float((zeros[0] & other).double().mean())
        assert abs(both - sparsity**2) < 2 * deviation


@pytest.mark.parametrize("flag", [0.0, 0.5, 0.9])
def test_parity_gives_the_rates_of_the_published_code(flag: float) -> None:
    """0.50, 0.69 and 0.82 for 0, 0.5 and 0.9."""
    (trainable,) = trainables_of(a=(2,))
    mask = Masked(sparsity=flag, parity=True).mask(trainable, TensorState(), seed=0, epoch=0)
    assert isinstance(mask, LaneMask)
    expected = {0.0: 0.5, 0.5: 0.6915, 0.9: 0.8159}[flag]
    assert 1 - mask.stop / 65536 == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("num_directions", [1, 3])
@pytest.mark.parametrize("options", [{}, {"group": "global"}, {"rule": "magnitude"}], ids=str)
def test_accept_masked_entries_rest_and_are_not_perturbed(options: dict[str, str], num_directions: int) -> None:
    """Bit for bit, over the steps of one mask; the closure never sees them elsewhere; the others do move."""
    model = Quadratic({"a": (6, 5), "b": (7,)})
    optimizer = build(model, sparsity=0.5, resample_interval=3, num_directions=num_directions, **options)
    for _ in range(2):
        kept, before = kept_of(optimizer), weights_of(model)

        def closure(kept: dict[str, Tensor] = kept, before: dict[str, Tensor] = before) -> Tensor:
            for name, tensor in model.named_parameters():
                assert torch.equal(tensor[~kept[name]], before[name][~kept[name]])
            return model()

        run(optimizer, closure, 3)
        for name, tensor in weights_of(model).items():
            assert torch.equal(tensor[~kept[name]], before[name][~kept[name]])
            assert (tensor[kept[name]] != before[name][kept[name]]).all()
            assert 0 < int(kept[name].sum()) < kept[name].numel()


def test_accept_perturbation_and_update_use_the_same_mask() -> None:
    """A step is a multiple of what the closure saw, entry by entry."""
    model = Quadratic({"a": (6, 5)})
    optimizer, seen = build(model, sparsity=0.6), []
    for _ in range(4):
        seen.clear()
        before = weights_of(model)["a"]

        def closure() -> Tensor:
            seen.append(model.a.detach().clone())
            return model()

        optimizer.step(closure)
        shift, change = (seen[0] - before).flatten(), (model.a.detach() - before).flatten()
        assert torch.equal(shift != 0, change != 0)
        cosine = torch.nn.functional.cosine_similarity(shift, change, dim=0)
        assert abs(float(cosine)) == pytest.approx(1.0, abs=1e-9)


def estimates(num: int, *, seeds: bool) -> tuple[Quadratic, Tensor, Tensor]:
    """Estimates over seeds (so over masks) or over steps of one mask, (num, d), and the first mask."""
    model, lr = Quadratic({"a": (2, 3), "b": (2,)}), 1e-7
    start, flat = weights_of(model), model.flat().detach().clone()
    samples = []
    optimizer = build(model, lr=lr, sparsity=0.4, resample_interval=num)
    kept = torch.cat([mask.flatten() for mask in kept_of(optimizer).values()])
    for seed in range(num):
        restore(model, start)
        if seeds:
            optimizer = build(model, lr=lr, sparsity=0.4, seed=seed)
        optimizer.step(model)
        samples.append((flat - model.flat().detach()) / lr)
    restore(model, start)
    return model, torch.stack(samples), kept


def test_accept_the_mean_estimate_over_masks_is_1_minus_s_of_the_gradient() -> None:
    model, samples, _ = estimates(500, seeds=True)
    assert_mean(samples, 0.6 * model.gradient())


def test_accept_moments_given_the_mask() -> None:
    """Mean: M grad; mean square: (k + 2) ||M grad||^2, k the number of entries that move."""
    model, samples, kept = estimates(800, seeds=False)
    gradient = model.gradient() * kept
    assert 0 < int(kept.sum()) < 8
    assert_mean(samples, gradient)
    assert_mean(samples.square().sum(dim=1), (int(kept.sum()) + 2) * float(gradient.square().sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"group": "global"}, {"rule": "magnitude"}], ids=str)
def test_accept_sparsity_zero_is_mezo(options: dict[str, str], dtype: torch.dtype) -> None:
    """Bit for bit."""
    ours, theirs = Net(dtype), Net(dtype)
    run(build(ours, sparsity=0.0, **options), ours, 4)
    run(MeZO(theirs, lr=0.01, zo_eps=1e-3, engine="in_place"), theirs, 4)
    assert differing_bits(weights_of(ours), weights_of(theirs)) == []


def test_a_global_rate_is_the_fraction_of_small_entries_of_the_tensor() -> None:
    """tau is the s-quantile of |theta| over all entries; a tensor of small weights gets a high rate."""
    generator = torch.Generator().manual_seed(0)
    small, large = (scale * torch.randn(40, 50, generator=generator) for scale in (0.1, 1.0))
    settings = settings_of(Masked(sparsity=0.5, group="global"), with_values(small=small, large=large))
    tau = torch.cat([small, large]).abs().flatten().sort().values[1999]
    for name, tensor in (("small", small), ("large", large)):
        assert settings[name] == pytest.approx(float((tensor.abs() <= tau).double().mean()), abs=1e-7)
    assert settings["small"] > 0.85
    assert settings["small"] + settings["large"] == pytest.approx(1.0, abs=1e-6)


def test_tensors_that_are_zero_get_s_and_do_not_count() -> None:
    """As LoRA B at the start, which would otherwise rest for ever."""
    values = torch.arange(1.0, 101.0)
    settings = settings_of(Masked(sparsity=0.3, group="global"), with_values(a=values, b=torch.zeros(500)))
    assert settings == pytest.approx({"a": 0.3, "b": 0.3})
    zeros = with_values(b=torch.zeros(5))
    assert settings_of(Masked(sparsity=0.3, group="global"), zeros) == pytest.approx({"b": 0.3})
    for group in ("layer", "global"):
        limit = settings_of(Masked(sparsity=0.3, rule="magnitude", group=group), zeros)["b"]
        assert noise.kept(MagnitudeMask(limit), torch.zeros(5)).all()


def test_the_global_quantile_of_a_large_model_is_estimated_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deterministic, from every tensor in proportion, at even places of rows and columns."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.randn(64, generator=generator).repeat(500, 1)  # a stride of 32 would see two of the columns
    trainables = with_values(a=columns, b=3 * torch.randn(8000, generator=generator))
    exact = settings_of(Masked(sparsity=0.7, group="global"), trainables)
    monkeypatch.setattr(masked, "MAX_SAMPLED", 1250)
    sample = masked._sample(trainables)
    assert sample.numel() == 1000 + 250
    sampled = [settings_of(Masked(sparsity=0.7, group="global"), trainables) for _ in range(2)]
    assert sampled[0] == sampled[1]
    counts = sample[:1000].unique(return_counts=True)[1]
    assert counts.numel() == 64
    assert int(counts.max() - counts.min()) < 8
    assert sampled[0] == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize("group", ["layer", "global"])
def test_magnitude_masks_keep_the_smallest_entries(group: str) -> None:
    small, large = torch.arange(1.0, 11.0), torch.arange(11.0, 21.0)
    trainables = with_values(a=small, b=-large)
    settings = settings_of(Masked(sparsity=0.7, rule="magnitude", group=group), trainables)
    kept = {t.name: int(noise.kept(MagnitudeMask(settings[t.name]), t.parameter).sum()) for t in trainables}
    assert kept == ({"a": 3, "b": 3} if group == "layer" else {"a": 6, "b": 0})


def test_rates_are_taken_anew_at_each_epoch_and_survive_a_resume() -> None:
    """Replay and resume give the bits of the run, with state of the update beside the space's."""
    for options in ({"group": "global"}, {"rule": "magnitude"}):
        for update in (SGD(), Momentum()):
            settings = {"sparsity": 0.5, "resample_interval": 3, "update": update, "lr": 0.3, **options}
            model = Net()
            optimizer = build(model, **settings)
            before = copy.deepcopy(optimizer.state_dict())
            records, rates = run(optimizer, model, 2), []
            weights, state = weights_of(model), copy.deepcopy(optimizer.state_dict())
            for _ in range(5):
                rates.append(
                    {name: float(s["tensors"]["mask_setting"]) for name, s in optimizer.state_dict()["state"].items()}
                )
                records += run(optimizer, model, 1)
            assert rates[0] == rates[1] != rates[2]
            assert not before["state"]["first.weight"]["tensors"]

            resumed = build(Net(), **settings)
            restore(resumed.model, weights)
            resumed.load_state_dict(state)
            run(resumed, resumed.model, 5)
            replayed = build(Net(), **settings)
            for record in records:
                replayed.replay(record)
            for other in (resumed, replayed):
                assert differing_bits(state_of(optimizer), state_of(other)) == []


def test_momentum_of_masked_entries_decays_but_does_not_move_them() -> None:
    model = Quadratic({"a": (6, 5)})
    optimizer = build(model, sparsity=0.5, update=Momentum(beta=0.9))
    run(optimizer, model, 1)
    average = optimizer.tensor_states[optimizer.trainables[0]].tensors["momentum"].clone()
    kept, before = kept_of(optimizer)["a"], weights_of(model)["a"]
    run(optimizer, model, 1)
    after = optimizer.tensor_states[optimizer.trainables[0]].tensors["momentum"]
    assert torch.equal(weights_of(model)["a"][~kept], before[~kept])
    torch.testing.assert_close(after[~kept], 0.9 * average[~kept], rtol=1e-6, atol=0)


def test_state_is_one_number_a_tensor_only_where_weights_decide() -> None:
    assert build(Net(), sparsity=0.5).state_bytes == 0
    assert build(Net(), sparsity=0.0, group="global").state_bytes == 0
    for options in ({"group": "global"}, {"rule": "magnitude"}):
        assert build(Net(), sparsity=0.5, **options).state_bytes == 6 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ({"sparsity": float("nan")}, r"sparsity must be in \[0, 1\), got nan"),
        ({"resample_interval": 0}, "resample_interval must be at least 1, got 0"),
        ({"group": "globl"}, r"Unknown group 'globl'\. Did you mean: global\?"),
        ({"rule": "largest"}, "Unknown rule 'largest'"),
        ({"rule": "magnitude", "parity": True}, "parity=True would have no effect"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Masked(**options)
