"""SPIDEr, the mean of CIDEr-D and SPICE (arXiv:1612.00370), where SPICE is installed.

SPICE is a Java program. Nothing is downloaded here: ``aac-metrics-download`` fetches it; whether its licence
and size suit is for the user to say. Without it there is no SPIDEr, and CIDEr-D is never shown in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from audiolm_compress.metrics.cider import cider_d, prepare_captions


@dataclass(frozen=True)
class SpiderResult:
    """SPIDEr and SPICE of a set of captions, or why there are none.

    Attributes:
        spider: mean of CIDEr-D (0 to 10) and SPICE (0 to 1), or None.
        spice: mean SPICE, or None.
        per_clip: SPIDEr of each clip; empty without SPICE.
        spice_per_clip: SPICE of each clip; empty without.
        note: "" or what is missing.
    """

    spider: float | None
    spice: float | None
    per_clip: tuple[float, ...]
    spice_per_clip: tuple[float, ...]
    note: str


def spice_missing() -> str:
    """What keeps SPICE from running, starting with ``SPICE not installed``; "" if it is ready."""
    from aac_metrics.functional.spice import check_spice_install
    from aac_metrics.utils.checks import check_java_path
    from aac_metrics.utils.globals import get_default_cache_path, get_default_java_path

    java = get_default_java_path()
    reasons = []
    try:
        with _unlogged("aac_metrics.utils.checks"):  # the reason below says the same
            supported = check_java_path(java)
        if not supported:
            reasons.append(f"{java!r} is not one of the Java versions 8 to 13 that aac-metrics supports")
    except ValueError:
        reasons.append(f"no Java program {java!r} (AAC_METRICS_JAVA_PATH names another)")
    cache = Path(get_default_cache_path())
    try:
        check_spice_install(str(cache))
    except OSError:
        shown = f"~/{cache.relative_to(Path.home())}" if cache.is_relative_to(Path.home()) else cache
        reasons.append(f"its files are not in {shown} (aac-metrics-download fetches them)")
    return f"SPICE not installed: {'; '.join(reasons)}" if reasons else ""


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def spider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, normalise: bool = True
) -> SpiderResult:
    """SPIDEr of captions; arguments and errors as those of :func:`audiolm_compress.metrics.cider.cider_d`."""
    texts, text_references = prepare_captions(candidates, references, normalise=normalise)
    missing = spice_missing()
    if missing:
        return SpiderResult(None, None, (), (), missing)
    from aac_metrics.functional.spice import spice as compute

    cider, cider_per_clip = cider_d(candidates, references, normalise=normalise)
    total, per_clip = compute(texts, text_references)
    spice = float(total["spice"])
    spice_per_clip = per_clip["spice"].tolist()
    return SpiderResult(
        spider=(cider + spice) / 2,
        spice=spice,
        per_clip=tuple((c + s) / 2 for c, s in zip(cider_per_clip, spice_per_clip, strict=True)),
        spice_per_clip=tuple(spice_per_clip),
        note="",
    )
