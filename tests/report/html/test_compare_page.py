"""The page of several runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiolm_compress import compare
from audiolm_compress.report import Report


def test_page_is_well_formed_and_plots_the_runs(
    heard: Callable[..., Report], hostile: tuple[str, ...], parse: type[Any], tmp_path: Path
) -> None:
    for name in ("a", "<img src=x onerror=alert(1)>"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(heard(texts=hostile[:1]).to_json(), encoding="utf-8")
    page = compare(tmp_path, published=True).to_html()
    tree = parse(page)
    assert {attributes["id"] for attributes in tree.all("section")} == {
        "summary",
        "scores",
        "trade-off",
        "goals",
        "reference",
        "method",
    }
    plots = [attributes["aria-label"] for attributes in tree.all("svg") if "aria-label" in attributes]
    assert len(plots) == 4  # two scores, each against weights and TTFT
    assert tree.all("img") == []
    assert "<img src=x" in "".join(tree.text)
