"""Figures, changes and verdicts in the words of the page."""

from __future__ import annotations

from audiolm_compress.metrics.bootstrap import PairedResult
from audiolm_compress.report import differences
from audiolm_compress.report.html.markup import Markup, element

_EVEN = 0.005  # a change of less than half a per cent is called none


def chip(words: str, class_: str) -> Markup:
    """A short verdict; ``class_``: ``better``, ``worse``, ``even``, ``met`` or ``missed``."""
    return element("span", words, class_=f"chip {class_}")


def change(before: float | None, after: float | None) -> Markup | None:
    """By how much a cost (bytes, seconds) fell or rose; None if one of the two is missing."""
    if not before or after is None:
        return None
    share = after / before - 1
    if abs(share) < _EVEN:
        return chip("unchanged", "even")
    words = f"{abs(share):.0%} {'less' if share < 0 else 'more'}"
    return chip(words, "better" if share < 0 else "worse")


def verdict_class(score: str, found: PairedResult) -> str:
    """The class that colours a difference: ``better``, ``worse`` or ``even``."""
    words = differences.verdict(score, found)
    return "even" if words == "within noise" else words.removeprefix("perhaps ")


def verdict(score: str, found: PairedResult) -> Markup:
    """Better, worse or within noise, or perhaps one of the first two."""
    return chip(differences.verdict(score, found), verdict_class(score, found))


def quiet(words: str) -> Markup:
    """Set smaller and paler."""
    return element("span", words, class_="quiet")


def plain_name(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def signed(value: float) -> str:
    """A difference, with a true minus sign."""
    return _typeset(f"{value:+.4f}")


def bounds(low: float, high: float, form: str = ".3f") -> str:
    """An interval; a side on which nothing is known is infinite."""
    return _typeset(f"{low:{form}} to {high:{form}}")


def _typeset(figure: str) -> str:
    return figure.replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")


def times(before: float | None, after: float | None) -> str:
    """``after / before``; "" where one of them is missing."""
    return f"{after / before:.3f}\N{MULTIPLICATION SIGN}" if before and after is not None else ""


def size(count: float) -> tuple[str, str]:
    """Bytes as a figure of four digits and its unit."""
    mib = count / 2**20
    return (f"{mib / 2**10:.4g}", "GiB") if mib >= 2**10 else (f"{mib:.4g}", "MiB")
