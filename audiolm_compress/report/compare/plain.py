"""A comparison of runs in plain numbers, bytes and seconds, for spreadsheets and scripts: CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from audiolm_compress.report.compare.comparison import Comparison
from audiolm_compress.report.compare.published import MARK, Published
from audiolm_compress.report.compare.run import Run
from audiolm_compress.report.differences import verdict
from audiolm_compress.report.json_form import written

_SCHEMA = 1


def rows(found: Comparison) -> list[dict[str, Any]]:
    """Baselines, runs, published models; ``kind`` tells which.

    ``<cost>_ratio`` is that to the run's own baseline. ``<score>_low`` and ``_high`` are the 95 % interval,
    ``<score>_change...`` the paired difference from the run's own baseline; None is what there is not, and an
    infinite end of an interval. ``<score>_pareto`` names the costs with which a row is Pareto-optimal.
    """
    made = [_row(found, run, "baseline") for run in found.baselines]
    made += [_row(found, run, "run") for run in found.runs]
    columns = list(dict.fromkeys(name for row in made for name in row))
    made += [_published(row) for row in found.published]
    return [{name: _plain(row.get(name)) for name in columns} for row in made]


def csv_text(found: Comparison) -> str:
    """``rows`` below a header; an empty cell is what there is not."""
    lines = rows(found)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def json_text(found: Comparison) -> str:
    """``{"schema": 1, "rows": [...]}``, with null for what there is not, and what the runs do not share."""
    return written({"schema": _SCHEMA, "rows": rows(found), "notes": list(found.notes())})


def _row(found: Comparison, run: Run, kind: str) -> dict[str, Any]:
    environment = run.side.environment
    row: dict[str, Any] = {
        "kind": kind,
        "run": run.name,
        "model": run.side.source,
        "baseline": None if run.baseline is None else run.baseline.source,
    }
    for cost in found.costs:
        row[f"{cost.name}_{cost.unit}"] = cost.of(run.side)
        row[f"{cost.name}_ratio"] = None if run.baseline is None else run.ratio(cost)
    for score in found.scores:
        figure, result = run.side.scores.get(score), run.difference(score)
        interval = None if result is None else result.difference_interval
        row |= {
            score: figure and figure.value,
            f"{score}_low": figure and figure.low,
            f"{score}_high": figure and figure.high,
            f"{score}_change": result and result.difference,
            f"{score}_change_low": interval and interval.low,
            f"{score}_change_high": interval and interval.high,
            f"{score}_p": result and result.p_value,
            f"{score}_verdict": result and verdict(score, result),
            f"{score}_pareto": " ".join(
                cost.name for cost in found.traded if run.name in found.front(cost, score)
            ),
        }
    return row | {
        "goals": len(run.goals) if run.goals else None,
        "goals_met": sum(goal.met for goal in run.goals) if run.goals else None,
        "goals_missed": " ".join(goal.name for goal in run.goals if not goal.met),
        "clips": len(run.side.clips),
        "scores_comparable": "yes" if found.comparable else "no",
        "measured_on": environment.get("device_name") or environment.get("device"),
        "threads": environment.get("threads"),
        "file": str(run.file),
    }


def _published(row: Published) -> dict[str, Any]:
    return {
        "kind": "published",
        "run": row.team,
        "model": row.how,
        "peak_memory_bytes": row.memory_gib and round(row.memory_gib * 2**30),
        "ttft_s": row.ttft_s,
        "tpot_s": row.tpot_s,
        "wer": row.wer,
        "spider": row.spider,
        "scores_comparable": "no",
        "measured_on": MARK,
        "file": row.source,
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
