"""Puts the tables of result files into README.md, between `<!-- report: FILE -->` and `<!-- end -->`.

    python benchmarks/readme.py                                  # after a result file has changed
    python benchmarks/readme.py out/gemma2_4bit/report.json      # take this report as the README's first

A test compares, so that the README never shows numbers that no file holds.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from audiolm_compress import Report

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- report: (?P<file>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """``text`` with every block made anew from the report that it names."""

    def block(match: re.Match[str]) -> str:
        report = Report.from_json((ROOT / match["file"]).read_text(encoding="utf-8"))
        lines = "\n".join(line.rstrip() for line in report.table().strip("\n").splitlines())
        return f"{match[1]}```text\n{lines}\n```\n{match[3]}"

    return BLOCK.sub(block, text)


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the folders of the machine it was made on."""
    for side in ("baseline", "candidate"):
        for clip in report[side]["clips"]:
            clip["path"] = clip["path"].rpartition("audiolm_compress/")[2]
    return report


if __name__ == "__main__":
    if len(sys.argv) > 1:
        taken = portable(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        target = ROOT / "benchmarks" / "results" / "gemma2_4bit_tiny.json"
        target.write_text(json.dumps(taken, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
