"""Puts the tables of result files into README.md.

They stand between `<!-- report: FILE -->`, or `<!-- full size: FILE -->`, and `<!-- end -->`.

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
BLOCK = re.compile(r"(<!-- (?P<kind>report|full size): (?P<file>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_COLUMNS = {
    "weights": "weight_bytes",
    "peak memory": "peak_memory_bytes",
    "TTFT, 10 s clip": "ttft_10s",
    "TTFT, 30 s clip": "ttft_30s",
    "TPOT": "tpot_10s",
}


def filled(text: str) -> str:
    """``text`` with every block made anew from the report that it names."""

    def block(match: re.Match[str]) -> str:
        content = (ROOT / match["file"]).read_text(encoding="utf-8")
        if match["kind"] == "full size":
            return f"{match[1]}{full_size(json.loads(content))}\n{match[4]}"
        table = Report.from_json(content).table()
        lines = "\n".join(line.rstrip() for line in table.strip("\n").splitlines())
        return f"{match[1]}```text\n{lines}\n```\n{match[4]}"

    return BLOCK.sub(block, text)


def full_size(result: dict[str, Any]) -> str:
    """A table of the arrangements of ``full_size.py``: the first in its units, the others as ratios to it."""
    rows = [["arrangement", *_COLUMNS], ["---"] * (1 + len(_COLUMNS))]
    first = result["arrangements"]["upstream"]
    for name, figures in result["arrangements"].items():
        cells = [
            f"{figures[key] / first[key]:.3f}x" if figures is not first else _in_units(key, first[key])
            for key in _COLUMNS.values()
        ]
        rows.append([name, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _in_units(column: str, value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if column.endswith("bytes") else f"{value:.2f} s"


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
