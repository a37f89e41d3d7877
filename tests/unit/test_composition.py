"""Parts by name: found, changed, refused with near misses, and the same after a journal's header."""

import pytest

from foretune.composition import AXES, compose, part_class, part_classes
from foretune.errors import UsageError
from foretune.methods import make_method, method_of_description
from foretune.schedules import ModuleBlocks
from foretune.spaces import Identity, LowRank, Orthonormal
from foretune.updates import SGD, Adam, Momentum


def test_every_part_is_found_under_the_name_of_its_module() -> None:
    assert part_classes("space")["low_rank"] is LowRank
    assert part_classes("update")["momentum"] is Momentum
    for axis in AXES:
        for name, part in part_classes(axis).items():
            assert part.__module__.rpartition(".")[2] == name
            assert part.__doc__


def test_a_part_is_replaced_and_another_keeps_its_kind_with_other_settings() -> None:
    parts = make_method("lozo", {"rank": 4}).parts()
    changed = compose(parts, {"update": {"name": "momentum", "beta": 0.5}, "space": {"interval": 7}})
    assert changed.update == Momentum(beta=0.5)
    assert changed.space == LowRank(rank=4, interval=7)
    assert changed.direction is parts.direction
    assert changed.estimator is parts.estimator


def test_a_new_part_keeps_the_settings_it_shares_with_the_old_one() -> None:
    """What the user said of the method holds: here rank, weight decay and LOZO's factor for matrices."""
    parts = make_method("lozo", {"rank": 4, "weight_decay": 0.1}).parts()
    changes = {"space": {"name": "orthonormal"}, "update": {"name": "adam"}, "schedule": {"name": "module_blocks"}}
    changed = compose(parts, changes)
    assert changed.space == Orthonormal(rank=4, interval=50)
    assert changed.update == Adam(weight_decay=0.1)
    assert changed.schedule == ModuleBlocks(matrix_lr_scale=4)
    assert compose(parts, {"space": {"name": "identity"}}).space == Identity()
    assert compose(parts, {"space": {"name": "orthonormal", "rank": 2}}).space == Orthonormal(rank=2, interval=50)


def test_unknown_names_and_settings_are_refused_with_near_misses() -> None:
    parts = make_method("mezo", {}).parts()
    with pytest.raises(UsageError, match=r"Unknown update 'momentumm'\. Did you mean: momentum\?"):
        part_class("update", "momentumm")
    with pytest.raises(UsageError, match=r"The update 'momentum' has no option 'betaa'\. Did you mean: beta\?"):
        compose(parts, {"update": {"name": "momentum", "betaa": 1}})
    with pytest.raises(UsageError, match=r"The update 'SGD' has no option 'beta'\."):
        compose(parts, {"update": {"beta": 0.5}})
    with pytest.raises(UsageError, match=r"beta must be in \[0, 1\), got 2"):
        compose(parts, {"update": {"name": "momentum", "beta": 2}})


def test_a_composed_method_is_made_again_from_its_description() -> None:
    """What the header of a journal holds is enough for a replay."""
    method = make_method("lozo", {"lr": 0.5, "update": {"name": "momentum"}, "space": {"rank": 3}})
    assert method.lr == method.describe()["lr"] == 0.5
    again = method_of_description(method.describe())
    assert again.describe() == method.describe()
    assert again.parts() == method.parts()
    assert again.parts().space == LowRank(rank=3)
    assert isinstance(again.parts().update, Momentum)
    assert make_method("mezo", {}).parts().update == SGD()


def test_the_length_of_a_run_may_have_no_effect_for_it_is_filled_in() -> None:
    """Neither where a run begins, nor where its journal is read."""
    method = make_method(
        "zo_adamu", {"direction": {"name": "momentum_guided", "t1": 1, "t2": 2, "t3": 3}}, total_steps=9
    )
    assert method_of_description(method.describe()).parts() == method.parts()
