"""How a report calls things."""

from __future__ import annotations

import pytest

from foretune.reports.naming import duration, figure_name, memory, model_name, number, passes, setting


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("facebook/opt-13b", "opt-13b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("/models/opt-mini/", "opt-mini"),
        ("C:\\models\\opt-mini", "opt-mini"),
        (None, "unknown"),
    ],
)
def test_models_are_called_by_the_last_part_of_their_path(model, name):
    assert model_name(model) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-6, "1e-6"), (3.5e-5, "3.5e-5"), (1.44e-3, "1.44e-3"), (0.05, "0.05"), (0.0, "0"), (16, "16"), (1e9, "1e9")],
)
def test_numbers_are_brief(value, text):
    assert number(value) == setting(value) == text


def test_other_settings_are_as_they_are():
    assert (setting(True), setting("two_sided"), setting(None)) == ("true", "two_sided", "None")


def test_units():
    assert [duration(seconds) for seconds in (0.25, 90, 600, 9000, 200_000)] == [
        "250 ms",
        "90.0 s",
        "10.0 min",
        "2.5 h",
        "2.3 d",
    ]
    assert [memory(size * 2**20) for size in (600, 3 * 1024)] == ["600 MiB", "3.00 GiB"]
    assert passes(40_000) == "40\u202f000"
    assert figure_name("rouge_l") == "ROUGE-L"
