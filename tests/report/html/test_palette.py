"""Every colour of text reaches 4.5:1 on its ground, every mark of a plot 3:1, light and dark (WCAG 2.2)."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = files("audiolm_compress.report.html").joinpath("page.css").read_text(encoding="utf-8")
SERIES = range(6)


def palette(selector: str) -> dict[str, str]:
    block = CSS[CSS.index(selector + " {") :].partition("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


LIGHT, DARK = palette(":root"), palette(':root[data-theme="dark"]')


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_definition() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_and_marks_stand_out(colours: dict[str, str]) -> None:
    texts = [(ink, ground) for ink in ("ink", "quiet", "accent") for ground in ("page", "surface", "sunken")]
    texts += [(name, f"{name}-soft") for name in ("good", "bad", "even", "mark")]
    texts += [("good", "surface"), ("bad", "surface"), ("on-accent", "accent"), ("on-side0", "side0")]
    texts += [("on-side", f"side{i}") for i in SERIES if i] + [("on-part", f"part{i}") for i in SERIES]
    marks = [(f"{kind}{i}", "surface") for kind in ("side", "part") for i in SERIES]
    for pairs, least in ((texts, 4.5), (marks, 3.0)):
        for front, back in pairs:
            assert contrast(colours[front], colours[back]) >= least, (front, back)


def test_the_dark_palette_is_the_same_for_systems_and_for_the_button() -> None:
    assert palette(':root:not([data-theme="light"])') == DARK
    assert DARK.keys() == LIGHT.keys()
    named = set(re.findall(r"var\(--([\w-]+)\)", CSS))
    assert named <= LIGHT.keys()
