"""The page is whole, says the same as the report, and stays harmless whatever got into its texts."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.report import Report
from audiolm_compress.report.benchmark import Benchmark
from audiolm_compress.report.html import PageSettings

Heard = Callable[..., Report]
Parse = Callable[[str], Any]  # see ``Tree`` of conftest


def test_every_figure_of_the_report_is_on_the_page(heard: Heard, parse: Parse) -> None:
    report = heard()
    text = " ".join(parse(report.to_html()).text)
    for expected in (
        "mine",
        "50% less",
        "merge_lora",
        "left one layer out",
        "0.5 → 0.625",
        "✓ met",
        "q_proj",
    ):
        assert expected in text
    for score, found in report.differences.items():
        assert f"{found.candidate:.4f}" in text, score
    assert "audiolm-compress run out/mine/recipe.yaml --out out/mine-again" in text
    assert "SPIDEr, SPICE: SPICE not installed: no Java" in text


def test_texts_stay_texts(heard: Heard, parse: Parse, hostile: tuple[str, ...]) -> None:
    """Nothing that a model, an annotation or a pass says becomes an element, an attribute or a script."""
    plain, found = parse(heard().to_html()), parse(heard(texts=hostile).to_html())
    assert len(found.all("script")) == len(plain.all("script")) == 1
    for name in ("img", "iframe", "object", "link", "base", "form"):
        assert found.all(name) == []
    for name, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on")], name
        assert "style" not in attributes, name
    text = " ".join(found.text)
    assert hostile[0] in text and hostile[1] in text and hostile[4] in text
    assert "\x00" not in text and "\ufffd" in text
    heard(texts=hostile).to_html().encode("utf-8")  # halves of surrogate pairs would fail


def test_writing_direction_of_answers_ends_with_them(heard: Heard) -> None:
    page = heard(texts=("right \u202e to left",)).to_html()
    for clip in re.findall(r'<dl class="says">.*?</dl>', page):
        assert "\u202e" not in re.sub(r"<bdi>.*?</bdi>", "", clip)


def test_the_page_loads_nothing_and_runs_what_was_packaged(
    heard: Heard, parse: Parse, hostile: tuple[str, ...]
) -> None:
    page = heard(texts=hostile).to_html()
    tree = parse(page)
    for name, attributes in tree.elements:
        for key in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:audio/mpeg;base64,", "#")), (name, value)
    assert "url(" not in page and "@import" not in page
    (policy,) = [a["content"] for a in tree.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none';") and "unsafe" not in policy
    for name in ("script", "style"):
        (inner,) = re.findall(f"<{name}>(.*?)</{name}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_readers_without_eyes_or_mouse(heard: Heard, parse: Parse) -> None:
    tree = parse(heard().to_html())
    (html,) = tree.all("html")
    assert html["lang"] == "en"
    labels = [a.get("aria-label") for a in tree.all("svg") if a.get("aria-hidden") != "true"]
    assert len(labels) >= 6 and all(label and len(label) > 20 for label in labels)
    assert all(a["role"] == "img" for a in tree.all("svg") if a.get("aria-hidden") != "true")
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in tree.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in tree.all("a")} <= set(ids)
    scrolled = [a for a in tree.all("div") if a.get("class") == "scroll"]
    assert scrolled and all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)
    assert all(a["aria-label"] for a in tree.all("audio"))


def test_clips_stand_in_the_order_of_regression_and_can_be_heard(heard: Heard, parse: Parse) -> None:
    report = heard(9)
    tree = parse(report.to_html())
    clips = tree.all("article")
    worse = [float(a["data-worse"] or "nan") for a in clips]
    assert worse == sorted(worse, reverse=True) and worse[0] == 1.0 and worse[-1] == -1.0
    by_id = {clip.testset_id: clip for clip in report.candidate.clips}
    before = {clip.testset_id: clip for clip in report.baseline.clips}
    for attributes, value in zip(clips, worse, strict=True):
        old, new = (side[str(attributes["data-id"])].scores for side in (before, by_id))
        (name,) = new
        assert (value > 0) == ((new[name].amount - old[name].amount) * (1 if name == "wer" else -1) > 0)
    sources = [str(a["src"]) for a in tree.all("audio")]
    assert len(sources) == 9
    sound = base64.b64decode(sources[0].partition(",")[2])
    samples, rate = soundfile.read(io.BytesIO(sound))
    assert rate == 16_000 and len(samples) / rate == pytest.approx(1.5, abs=0.2)


def test_sounds_left_out_and_lost_are_named(heard: Heard, parse: Parse) -> None:
    report = heard(4)
    page = report.to_html(PageSettings(audio_clips=1))
    assert len(parse(page).all("audio")) == 1
    assert "3 are left out, as the page holds at most 1 of them and 8 MiB" in page
    nothing = report.to_html(PageSettings(audio_mib=0.0))
    assert parse(nothing).all("audio") == [] and "4 are left out" in nothing
    Path(report.baseline.clips[0].path).unlink()
    assert "Audio left out: missing" in report.to_html()
    listed = report.to_html(PageSettings(clips=3))
    assert len(parse(listed).all("article")) == 3 and "1 clips are not listed" in listed


def test_a_page_of_several_models_shows_the_trade_off(heard: Heard, parse: Parse) -> None:
    report = heard()
    assert "Trade-off" not in report.to_html()
    small = replace(report.candidate, weight_bytes=2**20)
    sides = {"tiny": report.baseline, "out/mine": report.candidate, "small <b>": small}
    benchmark = Benchmark.of(list(sides), list(sides.values()), environment={}, notes=["made by: a command"])
    page = benchmark.to_html()
    text = " ".join(parse(page).text)
    assert "WER against weights" in text and "small <b>" in text
    assert "Worse and better are those of small" in text
    assert "a command" in text
    alone = Benchmark.of(["tiny"], [report.baseline], environment={})
    assert "Measured alone" in alone.to_html()


def test_what_was_not_measured_leaves_no_hole(
    heard: Heard, parse: Parse, measured: Callable[..., Measurements]
) -> None:
    report = heard()
    bare = replace(
        report,
        baseline=replace(report.baseline, groups=(), transformers_latency=None),
        candidate=replace(
            report.candidate,
            groups=(),
            clips_latency=replace(report.candidate.clips_latency, tpot=None),
            noise_latency=replace(report.candidate.noise_latency, tpot=None),
        ),
        steps=(),
        goals=(),
    )
    tree = parse(bare.to_html())
    headings = {str(a["id"]) for a in tree.all("section")}
    assert headings == {"summary", "memory", "latency", "clips", "method"}
    assert "n/a" in " ".join(tree.text)
    assert "nan" not in " ".join(tree.text)
    silent = Report.of(measured(errors=(0, 0), cider=()), measured(errors=(0, 0), cider=()), environment={})
    assert "same answer" in " ".join(parse(silent.to_html()).text)


@pytest.mark.slow
def test_the_page_of_a_hundred_clips_of_ten_seconds_stays_below_15_mb(heard: Heard, parse: Parse) -> None:
    """Sounds are stored at a constant rate, so a hundred clips take at most five times the page of twenty."""
    page = heard(20, 10.0).to_html()
    assert len(parse(page).all("audio")) == 20
    assert 5 * len(page.encode("utf-8")) < 15_000_000


def test_no_field_of_a_report_is_trusted(heard: Heard, parse: Parse, hostile: tuple[str, ...]) -> None:
    """A report.json may come from anywhere: each of its texts in turn means harm."""
    content = json.loads(heard(2).to_json())
    plain = Counter(name for name, _ in parse(Report.from_json(json.dumps(content)).to_html()).elements)
    shown = 0
    for holder, key in list(_texts(content)):
        kept, holder[key] = holder[key], hostile[1]
        try:
            page = Report.from_json(json.dumps(content)).to_html()
        except (KeyError, ValueError):  # a text that chooses something, such as a task
            continue
        finally:
            holder[key] = kept
        tree = parse(page)
        assert Counter(name for name, _ in tree.elements)["script"] == plain["script"], key
        assert not tree.all("img"), key
        shown += hostile[1] in " ".join(tree.text)
    assert shown > 10


def _texts(node: Any) -> Iterator[tuple[Any, Any]]:
    """Where the texts of a JSON value stand: (list or object, index or key)."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, str):
            yield node, key
        elif isinstance(value, dict | list):
            yield from _texts(value)
