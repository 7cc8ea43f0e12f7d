"""Tables that a terminal and Markdown share, each narrow enough for 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from audiolm_compress.report import markdown as md
from audiolm_compress.report import rows
from audiolm_compress.report.table import table


@dataclass(frozen=True)
class Section:
    """A table with its title; the first column holds names, and rows of one kind stand together."""

    title: str
    header: rows.Row
    body: Sequence[rows.Row]


def on_terminal(sections: Sequence[Section]) -> Iterator[Table]:
    """Each section as a table; long names take several lines."""
    for section in sections:
        made = table(section.title, section.header)
        for place, column in enumerate(made.columns):
            column.overflow = "fold"
            column.no_wrap = place > 0
        for row in section.body:
            made.add_row(*map(Text, row))  # names may hold brackets, which are no markup
        yield made


def in_markdown(sections: Sequence[Section]) -> Iterator[str]:
    """Each section as a heading and a table, in turn."""
    for section in sections:
        yield f"## {section.title}"
        yield md.table([name.replace("\n", " ") for name in section.header], section.body)
