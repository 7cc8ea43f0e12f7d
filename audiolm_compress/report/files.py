"""What a report leaves in the candidate's folder."""

from __future__ import annotations

from pathlib import Path

from audiolm_compress.measurement.csv_files import write_clip_csv
from audiolm_compress.recipe import Recipe
from audiolm_compress.report.markdown import model_card
from audiolm_compress.report.report import Report


def write_report(report: Report, recipe: Recipe, folder: Path) -> None:
    """Write the report, the resolved recipe, the model card and every clip's answers into ``folder``.

    report.json, report.md    the comparison
    report.html               the same to look at and to listen to
    recipe.yaml               the recipe with every default, as it was run
    README.md                 the model card
    baseline_*.csv, ...       answers and scores of each clip, see ``write_clip_csv``
    """
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")
    (folder / "report.html").write_text(report.to_html(), encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / "README.md").write_text(model_card(report, recipe), encoding="utf-8")
    write_clip_csv(folder, "baseline", report.baseline)
    write_clip_csv(folder, "candidate", report.candidate)
