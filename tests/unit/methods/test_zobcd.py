"""ZOBCD-LoRA: presets and variants, who rests, and the moments of a step."""

import pytest
import torch
from torch import Tensor, nn

import foretune
from foretune import ZOBCD, MeZO, Optimizer
from foretune.errors import UsageError
from foretune.estimators import TwoSided
from foretune.methods import METHODS, make_method
from foretune.schedules import LoRABlocks
from promised import run
from toys import TOYS, Quadratic, assert_mean, differing_bits, restore, weights_of

NAMES = ("m.lora_A.weight", "m.lora_B.weight")


def model() -> Quadratic:
    return Quadratic({NAMES[0]: (2, 3), NAMES[1]: (4, 2)})


def schedule(**options: object) -> LoRABlocks:
    return make_method("zobcd", options).parts().schedule


def test_published_defaults_and_presets() -> None:
    method = make_method("lora_bcd", {})
    assert METHODS.get("zo_lora_bcd") is type(method)
    assert (method.lr, method.zo_eps) == (1e-4, 1e-2)
    assert schedule() == LoRABlocks(steps_a=20, steps_b=200, std_a=0.5, std_b=1.0, lr_scale_a=1.0, lr_scale_b=2.0)
    assert schedule(preset="code") == LoRABlocks(lr_scale_a=0.5, lr_scale_b=1.0)
    for preset in ("supplement", "code"):  # effective rates of B and A are 8 : 1 in both
        parts = schedule(preset=preset)
        assert parts.lr_scale_b * parts.std_b**2 == 8 * parts.lr_scale_a * parts.std_a**2
    assert schedule(bcd_lr_mult_a=3.0, bcd_std_b=2.0) == LoRABlocks(lr_scale_a=3.0, std_b=2.0)


def test_variants_are_parts_of_the_method() -> None:
    plain = {"std_a": 1.0, "std_b": 1.0, "lr_scale_a": 1.0, "lr_scale_b": 1.0}
    assert schedule(zobcd_variant="s1") == LoRABlocks(**plain)
    assert schedule(zobcd_variant="s2") == LoRABlocks(**{**plain, "lr_scale_b": 2.0}, joint=True)
    assert schedule(zobcd_variant="s3") == LoRABlocks(**{**plain, "std_a": 0.5}, joint=True)
    assert schedule(zobcd_variant="s1", bcd_steps_b=3).steps_b == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zobcd_variant": "s1", "bcd_std_a": 0.7}, "bcd_std_a would have no effect with zobcd_variant='s1'"),
        ({"zobcd_variant": "s2", "bcd_steps_a": 7}, "bcd_steps_a would have no effect with zobcd_variant='s2'"),
        ({"zobcd_variant": "s3", "bcd_lr_mult_b": 7.0}, "bcd_lr_mult_b would have no effect with zobcd_variant='s3'"),
        ({"zobcd_variant": "s1", "preset": "code"}, "preset would have no effect with zobcd_variant='s1'"),
        ({"zobcd_variant": "s4"}, r"Unknown zobcd_variant 's4'.*Available: full, s1, s2, s3"),
        ({"preset": "paper"}, r"Unknown preset 'paper'.*Available: code, supplement"),
        ({"bcd_lr_mult_a": 0.0}, "lr_scale_a must be positive and finite, got 0.0"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_method("zobcd", options)


def test_accept_the_inactive_block_rests() -> None:
    """Bit for bit, and it is not perturbed either."""
    toy = model()
    optimizer = ZOBCD(toy, lr=0.01, bcd_steps_a=2, bcd_steps_b=3, engine="in_place")
    for step in range(10):
        active, resting = NAMES[::-1] if step % 5 < 3 else NAMES
        before = weights_of(toy)

        def closure(before: dict[str, Tensor] = before, resting: str = resting) -> Tensor:
            assert torch.equal(weights_of(toy)[resting], before[resting])
            return toy()

        optimizer.step(closure)
        assert differing_bits(before, weights_of(toy)) == [active]


def changes(num: int, step: int, **options: object) -> tuple[Quadratic, Tensor]:
    """Change of all weights at one step, over seeds, (num, d)."""
    toy = model()
    start, flat, samples = weights_of(toy), toy.flat().detach().clone(), []
    for seed in range(num):
        restore(toy, start)
        optimizer = ZOBCD(toy, lr=1e-6, seed=seed, engine="in_place", **options)
        optimizer.num_steps = step
        optimizer.step(toy)
        samples.append(toy.flat().detach() - flat)
    restore(toy, start)
    return toy, torch.stack(samples)


@pytest.mark.parametrize(("step", "rate"), [(0, 2e-6), (200, 1e-6 * 0.25)], ids=["B", "A"])
def test_accept_the_scale_acts_twice_on_the_expected_change(step: int, rate: float) -> None:
    """E[change of X] = -lr_X std_X^2 gradient_X: the rates of B and A are 8 : 1."""
    toy, samples = changes(600, step)
    is_b = torch.cat([torch.full((6,), False), torch.full((8,), True)])
    expected = -rate * toy.gradient() * (is_b if step == 0 else ~is_b)
    assert_mean(samples, expected)


@pytest.mark.parametrize(("variant", "rates"), [("s2", (1e-6, 2e-6)), ("s3", (0.25e-6, 1e-6))])
def test_joint_variants_move_both_blocks_at_their_own_rates(variant: str, rates: tuple[float, float]) -> None:
    toy, samples = changes(600, 0, zobcd_variant=variant)
    rate = torch.cat([torch.full((6,), rates[0]), torch.full((8,), rates[1])])
    assert_mean(samples, -rate * toy.gradient())


def test_accept_variance_of_a_step_and_of_the_product() -> None:
    """Var(dA) = Var(dB) = lr^2 Var(l+ - l-) / (4 zo_eps^2) = 1e-7; Var(d(BA)) = B^2 Var(dA) + A^2 Var(dB).

    The supplement's figures: lr 1e-4, zo_eps 1e-2, Var(l+ - l-) = 0.004; the loss is noise of that variance.
    """
    toy = Quadratic({"m.lora_A.weight": (1, 3), "m.lora_B.weight": (4, 1)})
    a, b = (dict(toy.named_parameters())[name] for name in sorted(weights_of(toy)))
    start, generator = weights_of(toy), torch.Generator().manual_seed(0)
    a0, b0 = a.detach().clone(), b.detach().clone()
    plain = LoRABlocks(joint=True, std_a=1.0, lr_scale_b=1.0)
    steps: dict[str, list[Tensor]] = {"a": [], "b": [], "product": []}
    for seed in range(3000):
        restore(toy, start)
        optimizer = Optimizer(
            toy, estimator=TwoSided(zo_eps=1e-2), schedule=plain, lr=1e-4, seed=seed, engine="in_place"
        )
        optimizer.step(lambda: 0.002**0.5 * float(torch.randn((), generator=generator)))
        delta_a, delta_b = a.detach() - a0, b.detach() - b0
        for name, delta in (("a", delta_a), ("b", delta_b), ("product", b0 @ delta_a + delta_b @ a0)):
            steps[name].append(delta.square().flatten())
    assert_mean(torch.stack(steps["a"]), 1e-7)
    assert_mean(torch.stack(steps["b"]), 1e-7)
    assert_mean(torch.stack(steps["product"]), (1e-7 * (b0.square() + a0.square())).flatten())


def zero_b(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    return net


def test_accept_while_b_is_zero_steps_of_a_do_nothing() -> None:
    """The loss does not depend on A then, so g = 0 exactly; that is why B goes first."""
    net = zero_b(TOYS["lora"].net())
    optimizer = ZOBCD(net, lr=0.1, bcd_steps_a=1, bcd_steps_b=1)
    optimizer.num_steps = 1
    before = weights_of(net)
    (record,) = run(optimizer, net, 1)
    assert record.scalars == (0.0,)
    assert differing_bits(before, weights_of(net)) == []
    (record,) = run(optimizer, net, 1)
    assert record.scalars != (0.0,)


def test_jointly_with_equal_factors_it_is_mezo() -> None:
    """Bit for bit."""
    results = []
    plain = LoRABlocks(joint=True, std_a=1.0, lr_scale_b=1.0)
    for make in (
        lambda net: Optimizer(net, estimator=TwoSided(zo_eps=1e-3), schedule=plain, lr=0.01),
        lambda net: MeZO(net, lr=0.01, zo_eps=1e-3),
    ):
        net = TOYS["lora"].net()
        run(make(net), net, 4)
        results.append(weights_of(net))
    assert differing_bits(*results) == []


def test_it_has_two_forwards_and_no_state() -> None:
    net = TOYS["lora"].net()
    optimizer = foretune.ZOBCD(net)
    assert optimizer.state_bytes == 0
    assert optimizer.parts.estimator.num_forwards == 2
