"""MGS-BCD: its defaults, and that it learns on a model of transformers with padded rows."""

import model_zoo
from foretune import MGSBCD
from foretune.methods import make_method
from foretune.schedules import MagnitudeGroups
from promised import run


def test_published_defaults() -> None:
    method = make_method("mgs_bcd", {})
    assert (method.lr, method.zo_eps) == (1e-4, 1e-2)
    assert method.parts().schedule == MagnitudeGroups(selective_ratio=0.5, bcd=False, count_steps=50, half_steps=200)
    assert make_method("mgs_bcd", {"bcd": True, "selective_ratio": 0.7}).parts().schedule == MagnitudeGroups(
        selective_ratio=0.7, bcd=True
    )
    own = {"adaselect": True, "patience": 2, "perturb_selected": True}
    assert make_method("mgs_bcd", own).parts().schedule == MagnitudeGroups(**own)


def test_it_learns_with_half_of_the_rows() -> None:
    model = model_zoo.with_adapter(model_zoo.opt, "lora")
    closure = model_zoo.causal_closure(model)
    optimizer = MGSBCD(model, lr=0.1, zo_eps=1e-3, num_directions=4)
    first = closure().item()
    records = run(optimizer, closure, 60)
    assert all(record.observation for record in records)
    assert records[-1].loss < 0.95 * first
