"""RGS-BCD: defaults, the order of a step, and its mean."""

import torch
from torch import Tensor

from foretune import RGSBCD, noise
from foretune.methods import make_method
from foretune.schedules import RandomGroups
from foretune.updates import Momentum
from promised import run
from toys import TOYS, CountedCalls, Quadratic, assert_mean, restore, weights_of


def test_published_defaults() -> None:
    method = make_method("rgs_bcd", {})
    assert (method.lr, method.zo_eps) == (1e-4, 1e-2)
    assert method.parts().schedule == RandomGroups(stds=(1.0, 0.5), granularity="element")


def first_group(optimizer: RGSBCD) -> dict[str, Tensor]:
    block = optimizer.parts.schedule.blocks(0, optimizer.trainables, seed=optimizer.seed)[0]
    return {member.trainable.name: noise.kept(member.mask, member.trainable.parameter) for member in block.members}


def test_the_second_group_is_measured_where_the_first_has_moved_to() -> None:
    """Four forwards; a group that is not measured rests, and the first one is not moved again."""
    model = Quadratic({"m.lora_A.weight": (6, 5), "m.lora_B.weight": (4, 6)})
    optimizer = RGSBCD(model, lr=0.01, engine="in_place")
    first, before, seen = first_group(optimizer), weights_of(model), []

    def closure() -> Tensor:
        seen.append(weights_of(model))
        return model()

    optimizer.step(closure)
    after = weights_of(model)
    assert len(seen) == 4
    for name, kept in first.items():
        for weights in seen[:2]:
            assert torch.equal(weights[name][~kept], before[name][~kept])
            assert (weights[name][kept] != before[name][kept]).all()
        for weights in seen[2:]:
            assert torch.equal(weights[name][kept], after[name][kept])
            assert (weights[name][~kept] != before[name][~kept]).all()
        middle = (seen[2][name] + seen[3][name]) / 2  # where group 2 was measured around
        torch.testing.assert_close(middle[~kept], before[name][~kept], rtol=0, atol=1e-12)


def test_the_mean_step_is_the_gradient_times_the_squared_scale_of_the_group() -> None:
    model, lr = Quadratic({"m.lora_A.weight": (2, 3), "m.lora_B.weight": (2,)}), 1e-6
    start, flat = weights_of(model), model.flat().detach().clone()
    samples = []
    for seed in range(400):
        restore(model, start)
        optimizer = RGSBCD(model, lr=lr, seed=seed, engine="in_place")
        kept = torch.cat([mask.flatten() for mask in first_group(optimizer).values()])
        optimizer.step(model)
        samples.append((flat - model.flat().detach()) / (lr * torch.where(kept, 1.0, 0.25)))
    restore(model, start)
    assert_mean(torch.stack(samples), model.gradient())


def test_it_has_two_scalars_four_forwards_and_no_state() -> None:
    net = TOYS["lora"].net()
    optimizer, closure = RGSBCD(net), CountedCalls(net)
    run(optimizer, closure, 1)
    before = closure.count
    (record,) = run(optimizer, closure, 1)
    assert closure.count - before == 4
    assert len(record.scalars) == 2
    assert optimizer.state_bytes == 0


def test_an_average_is_shared_by_both_groups() -> None:
    """It decays at both visits; what the first group moves is not what the second one moves."""
    net = TOYS["lora"].net()
    optimizer = RGSBCD(net, lr=0.01, update={"name": "momentum", "beta": 0.5})
    assert isinstance(optimizer.parts.update, Momentum)
    run(optimizer, net, 2)
    assert {state.num_updates for state in optimizer.tensor_states.values()} == {4}
