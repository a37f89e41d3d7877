"""docs/probe-against-sweep.md counts how far the probe is from the best cell of a grid."""

import pytest


@pytest.fixture
def script():
    import probe_against_sweep

    return probe_against_sweep


def run_row(script, lr, zo_eps, seed, loss):
    status = "finished" if isinstance(loss, float) else "diverged"
    settings = {"case": "mezo", "kind": script.RUN, "forwards": 1200, "seconds": 1.0, "commit": "c"}
    return script.Row(**settings, lr=lr, zo_eps=zo_eps, seed=seed, status=status, dev_loss=loss)


def probe_row(script, lr, zo_eps):
    settings = {"case": "mezo", "kind": script.PROBE, "forwards": 700, "seconds": 1.0, "commit": "c", "seed": 0}
    return script.Row(**settings, lr=lr, zo_eps=zo_eps, status="finished", dev_loss="")


@pytest.fixture
def grid(script):
    losses = {
        (1e-5, 1e-3): (0.70, 0.68),
        (1e-4, 1e-3): (0.60, 0.62),
        (1e-3, 1e-3): (0.50, ""),
        (1e-4, 1e-2): (0.64, 0.66),
    }
    losses |= {(1e-5, 1e-2): (0.69, 0.69), (1e-3, 1e-2): ("", "")}
    return [run_row(script, *cell, seed, loss) for cell, found in losses.items() for seed, loss in enumerate(found)]


def test_the_page_is_what_the_rows_say(script):
    assert script.PAGE.read_text() == script.page(script.read_rows(script.RESULTS, script.Row))


def test_the_best_cell_is_the_one_with_the_best_mean_of_whole_runs(script, grid):
    lines = script.section("mezo", grid)
    assert "| 0.0001 | **0.6100** | 0.6500 |" in lines
    assert "| 0.001 | diverged | diverged |" in lines, "one good seed is no good cell"


@pytest.mark.parametrize(
    ("lr", "zo_eps", "away", "loss", "over"),
    [(1.5e-4, 1e-3, "+0, +0", "0.6100", "+0.0000"), (2e-5, 8e-3, "-1, +1", "0.6900", "+0.0800")],
)
def test_the_probe_is_counted_in_cells(script, grid, lr, zo_eps, away, loss, over):
    lines = script.section("mezo", [*grid, probe_row(script, lr, zo_eps)])
    assert f"| seed 0 | {lr:g} | {zo_eps:g} | {away} | {loss} | {over} | 700 |" in lines


def test_how_much_seeds_differ_is_of_cells_with_all_seeds(script, grid):
    assert "differ by 0.0150 on average" in script.section("mezo", grid)[-2]
    assert "14,400 forward passes in 12 runs" in script.section("mezo", grid)[-2]
