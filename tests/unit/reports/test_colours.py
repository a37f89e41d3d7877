"""Looks of methods, and hues that colour-blind readers can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from foretune.methods import RECIPES
from foretune.reports.colours import DARK, GREY, LIGHT, look, style_sheet

# Machado, Oliveira and Fernandes 2009: full deficiency, in linear RGB
_DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
_GROUNDS = {"light": (LIGHT, "#ffffff"), "dark": (DARK, "#161a20")}


def _linear(hue):
    values = np.array([int(hue[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _oklab(linear):
    long, middle, short = np.cbrt(
        np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        )
        @ np.clip(linear, 0, 1)
    )
    return np.array(
        [
            0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
            1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
            0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
        ]
    )


def _luminance(hue):
    return float(_linear(hue) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("ground", _GROUNDS)
@pytest.mark.parametrize("deficiency", _DEFICIENCIES)
def test_hues_stay_apart(ground, deficiency):
    seen = [_oklab(np.array(_DEFICIENCIES[deficiency]) @ _linear(hue)) for hue in _GROUNDS[ground][0]]
    nearest = min(np.linalg.norm(first - second) for first, second in itertools.combinations(seen, 2))
    assert nearest > 0.07  # a just noticeable difference is about 0.02


@pytest.mark.parametrize("ground", _GROUNDS)
def test_lines_stand_out_from_the_ground(ground):
    hues, behind = _GROUNDS[ground]
    for hue in hues:
        high, low = sorted((_luminance(hue), _luminance(behind)), reverse=True)
        assert (high + 0.05) / (low + 0.05) > 3, hue


def test_every_method_has_a_look_of_its_own():
    names = list(RECIPES)
    assert len({look(name) for name in names}) == len(names)


def test_a_changed_method_keeps_its_hue_with_another_line():
    assert look("lozo, update adam").hue == look("lozo").hue
    assert look("lozo, update adam").dash != look("lozo").dash
    assert look("of another program") == look("of another program")
    assert look("of another program").hue != GREY


def test_both_grounds_are_in_the_style_sheet():
    assert all(hue in style_sheet() for hue in (*LIGHT, *DARK))
