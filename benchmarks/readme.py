"""Puts the tables of result files into README.md, between `<!-- report: FILE -->` and `<!-- end -->`.

    python benchmarks/readme.py

A test compares, so that the README never shows numbers that no file holds.
"""

from __future__ import annotations

import re
from pathlib import Path

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


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
