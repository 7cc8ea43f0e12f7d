"""CIDEr-D against aac-metrics' recorded numbers; SPIDEr only with SPICE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.normalise import caption
from audiolm_compress.metrics.spider import spice_missing, spider

FIXTURE = json.loads(
    (Path(__file__).parents[1] / "fixtures/upstream_parity/metrics/cider_d.json").read_text(encoding="utf-8")
)
CANDIDATES: list[str] = FIXTURE["candidates"]
REFERENCES: list[list[str]] = FIXTURE["references"]


def test_scores_equal_upstreams() -> None:
    score, per_clip = cider_d(CANDIDATES, REFERENCES, normalise=False)
    assert score == pytest.approx(FIXTURE["cider_d"], abs=1e-9)
    assert per_clip == pytest.approx(FIXTURE["cider_d_per_item"], abs=1e-9)


@pytest.mark.parametrize(
    ("key", "count", "first"), [("first_two_only", 2, None), ("first_reference_only", None, 1)]
)
def test_scores_of_subsets_equal_upstreams(key: str, count: int | None, first: int | None) -> None:
    score, per_clip = cider_d(
        CANDIDATES[:count], [texts[:first] for texts in REFERENCES[:count]], normalise=False
    )
    assert score == pytest.approx(FIXTURE[key]["cider_d"], abs=1e-9)
    assert per_clip == pytest.approx(FIXTURE[key]["per_item"], abs=1e-9)


def test_normalising_ignores_case_and_punctuation() -> None:
    references = [["Rain falls on a roof."], ["A man speaks"]]
    plain, _ = cider_d(["rain falls on a roof", "a man speaks"], references)
    loud, _ = cider_d(["Rain falls, on a roof!", "A man SPEAKS."], references)
    strict, _ = cider_d(["Rain falls, on a roof!", "A man SPEAKS."], references, normalise=False)
    assert loud == pytest.approx(plain) and strict < loud


def test_caption_form() -> None:
    assert (
        caption("  A man\u2019s 2 dogs bark;\train falls - heavily. ")
        == "a man's 2 dogs bark rain falls heavily"
    )
    assert caption("...") == ""


@pytest.mark.parametrize("measure", [cider_d, spider])
def test_impossible_inputs(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="at least 2; found 1"):
        measure(["a"], [["a"]])
    with pytest.raises(DataError, match="2 candidates for 1 clips"):
        measure(["a", "b"], [["a"]])
    with pytest.raises(DataError, match=r"clip\(s\) \[1\]"):
        measure(["a", "b"], [["a"], ["..."]])
    with pytest.raises(DataError, match=r"clip\(s\) \[0\]"):
        measure(["a", "b"], [[], ["b"]])


JAVA = """#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "{version}" 2024' >&2; exit 0; fi
while [ $# -gt 0 ]; do if [ "$1" = -out ]; then out=$2; fi; shift; done
echo '[{{"scores": {{"All": {{"f": 0.25}}}}}}, {{"scores": {{"All": {{"f": 0.75}}}}}}]' > "$out"
"""


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that answers like Java running SPICE, and a place for SPICE's files."""
    program = tmp_path / "java"
    program.write_text(JAVA.format(version="11.0.2"))
    program.chmod(0o755)
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", str(program))
    monkeypatch.setenv("AAC_METRICS_CACHE_PATH", str(tmp_path / "cache"))
    return program


def install_spice(cache: Path) -> None:
    """Empty files under the names that aac-metrics looks for, found by its own complaints."""
    from aac_metrics.functional.spice import check_spice_install

    folder = cache / "aac-metrics/spice"
    (folder / "cache").mkdir(parents=True)
    (folder / "lib").mkdir()
    (folder / "spice-1.0.jar").touch()
    with pytest.raises(FileNotFoundError) as caught:
        check_spice_install(str(cache))
    for name in str(caught.value).split("(missing ")[1].rstrip(")").split(", "):
        (folder / "lib" / name).touch()


def test_spider_is_none_with_the_reason(java: Path) -> None:
    result = spider(["a dog", "rain"], [["a dog"], ["rain"]])
    assert result.spider is None and result.spice is None and result.per_clip == ()
    assert result.note.startswith("SPICE not installed: its files are not in")


def test_missing_and_unsupported_java_are_told_apart(java: Path) -> None:
    java.write_text(JAVA.format(version="21.0.1"))
    assert "versions 8 to 13" in spice_missing()
    java.unlink()
    assert "no Java program" in spice_missing()


def test_spider_is_the_mean_of_cider_d_and_spice(java: Path, tmp_path: Path) -> None:
    install_spice(tmp_path / "cache")
    candidates, references = ["a dog barks", "rain falls"], [["a dog barks"], ["heavy rain"]]
    cider, per_clip = cider_d(candidates, references)
    result = spider(candidates, references)
    assert result.note == "" and result.spice == 0.5 and result.spice_per_clip == (0.25, 0.75)
    assert result.spider == pytest.approx((cider + 0.5) / 2)
    assert result.per_clip == pytest.approx([(per_clip[0] + 0.25) / 2, (per_clip[1] + 0.75) / 2])
