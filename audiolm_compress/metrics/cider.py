"""CIDEr-D of audio captions (arXiv:1411.5726), computed by aac-metrics."""

from __future__ import annotations

from collections.abc import Sequence

from audiolm_compress.errors import DataError
from audiolm_compress.metrics.normalise import caption


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, normalise: bool = True
) -> tuple[float, list[float]]:
    """Consensus of captions with their references: n-grams up to 4, weighted by how rare they are in the set.

    The document frequencies come from the references of the given set, so a clip's score depends on the other
    clips, and scores of different sets cannot be compared.

    Args:
        candidates: one caption a clip.
        references: the reference captions of each clip, at least one each.
        normalise: lower-case both sides and drop punctuation first (``metrics.normalise.caption``). False
            takes the words as they are, as ``aac_metrics.functional.cider_d`` and the upstream evaluator do.

    Returns:
        The mean over the clips, from 0 to 10, and the score of each clip.

    Raises:
        DataError: fewer than two clips (nothing is rare in a set of one), a clip without references, or
            numbers that differ.
    """
    candidates, references = prepare_captions(candidates, references, normalise=normalise)
    from aac_metrics.functional.cider_d import cider_d as compute

    total, per_clip = compute(candidates, references)
    return float(total["cider_d"]), per_clip["cider_d"].tolist()


def prepare_captions(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, normalise: bool
) -> tuple[list[str], list[list[str]]]:
    """Check captions and references and bring them into the form that is compared; see :func:`cider_d`."""
    if len(candidates) != len(references):
        raise DataError(f"captions: {len(candidates)} candidates for {len(references)} clips; give one each")
    if len(candidates) < 2:
        raise DataError(
            f"captions: CIDEr-D weighs words by how rare they are among the clips, so it needs at least 2; "
            f"found {len(candidates)}"
        )
    change = caption if normalise else str
    prepared = [[change(text) for text in texts] for texts in references]
    without = [index for index, texts in enumerate(prepared) if not any(text.strip() for text in texts)]
    if without:
        raise DataError(f"captions: no reference words for clip(s) {without}; they cannot be scored")
    return [change(text) for text in candidates], prepared
