"""The Pareto front as a drawing: every objective against the first."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure


def pareto_svg(
    title: str,
    objectives: Sequence[str],
    points: Sequence[Sequence[float]],
    labels: Sequence[str],
    on_front: Sequence[bool],
) -> str:
    """An SVG file that needs no other; the same points give the same text.

    Args:
        title: of the drawing.
        objectives: titles, one a dimension. With a single one, points stand over their order.
        points: one a trial, [trials][objectives].
        labels: one a trial.
        on_front: which of them no other dominates; these are filled and labelled.
    """
    others = objectives[1:] or ("trial",)
    columns = min(2, len(others))
    rows = -(-len(others) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "audiolm_compress", "font.size": 9}):
        figure = Figure(figsize=(4.5 * columns, 3.2 * rows + 0.4), layout="constrained")
        figure.suptitle(title)
        for index, name in enumerate(others, start=1):
            axes = figure.add_subplot(rows, columns, index)
            for order, (point, label, kept) in enumerate(zip(points, labels, on_front, strict=True)):
                y = point[index] if len(objectives) > 1 else order
                colour = "tab:blue" if kept else "lightgrey"
                axes.scatter([point[0]], [y], color=colour, zorder=2 if kept else 1)
                if kept:
                    axes.annotate(label, (point[0], y), xytext=(4, 4), textcoords="offset points")
            axes.set_xlabel(objectives[0])
            axes.set_ylabel(name)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
