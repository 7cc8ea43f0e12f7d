"""How good a model's answers are: the scores of every clip, of the test set and of groups of clips.

Answering happens in the measured process, scoring in the one that started it: the scorers' libraries are
heavy and would be counted as the model's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from audiolm_compress.data.tasks import TaskKind
from audiolm_compress.measurement.clip_result import ClipResult, ClipScore, Group, Score
from audiolm_compress.measurement.groups import figures, grouped
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.metrics.spider import spider
from audiolm_compress.metrics.wer import Edits, wer


@dataclass(frozen=True)
class Scores:
    """Scores of a whole test set; fields as in ``Measurements``, and how many clips have no score."""

    clips: tuple[ClipResult, ...]
    scores: Mapping[str, Score]
    unscored: Mapping[str, str]
    edits: Edits | None
    groups: tuple[Group, ...]
    not_scored: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """Of clips of one kind: scores and edits of each, and why a score is missing, by its name."""

    scores: Mapping[str, Sequence[ClipScore]] = field(default_factory=dict)
    unscored: Mapping[str, str] = field(default_factory=dict)
    edits: Sequence[Edits] = ()


def score(clips: Sequence[ClipResult], seed: int = 0, settings: BenchmarkSettings | None = None) -> Scores:
    """Score answers by the kind of their task.

    Recognition: WER against the first reference. Captions: CIDEr-D, and SPIDEr and SPICE where that is
    installed, against all of theirs.

    Args:
        clips: answered clips; scores that they carry already are computed anew.
        seed: of the bootstrap intervals.
        settings: lengths that part the clips into groups.

    Raises:
        DataError: a caption clip has no usable reference, or no recognition reference holds a word.
    """
    settings = settings or BenchmarkSettings()
    scored = [replace(clip, edits=None, scores={}) for clip in clips]
    unscored: dict[str, str] = {}
    for kind, scorer in _SCORERS.items():
        places = [place for place, clip in enumerate(scored) if clip.kind == kind]
        if not places:
            continue
        found = scorer([scored[place] for place in places])
        unscored |= found.unscored
        for index, place in enumerate(places):
            own = {name: found.scores[name][index] for name in SCORES if name in found.scores}
            scored[place] = replace(
                scored[place], scores=own, edits=found.edits[index] if found.edits else None
            )
    groups, notes = grouped(scored, settings.length_edges, seed)
    edits = [clip.edits for clip in scored if clip.edits is not None]
    return Scores(
        clips=tuple(scored),
        scores=figures(scored, seed),
        unscored={name: unscored[name] for name in SCORES if name in unscored},
        edits=Edits.total(edits) if edits else None,
        groups=groups,
        not_scored=sum(not clip.scores for clip in scored),
        notes=notes,
    )


def _recognition(clips: Sequence[ClipResult]) -> _Found:
    result = wer([clip.text for clip in clips], [clip.references[0] for clip in clips])
    scores = [ClipScore(edits.errors, edits.words) for edits in result.per_clip]
    return _Found({"wer": scores}, edits=result.per_clip)


def _captions(clips: Sequence[ClipResult]) -> _Found:
    if len(clips) == 1:
        reason = "needs at least two caption clips; the test set has one"
        return _Found(unscored=dict.fromkeys(("cider_d", "spider", "spice"), reason))
    texts, references = [clip.text for clip in clips], [clip.references for clip in clips]
    _, consensus = cider_d(texts, references)
    with_spice = spider(texts, references)
    if with_spice.note:
        unscored = dict.fromkeys(("spider", "spice"), with_spice.note)
        return _Found({"cider_d": _means(consensus)}, unscored)
    both = {"spider": _means(with_spice.per_clip), "spice": _means(with_spice.spice_per_clip)}
    return _Found({"cider_d": _means(consensus)} | both)


def _means(values: Sequence[float]) -> list[ClipScore]:
    """Scores whose figure is their mean."""
    return [ClipScore(float(value), 1.0) for value in values]


_SCORERS: Mapping[TaskKind, Callable[[Sequence[ClipResult]], _Found]] = {
    "asr": _recognition,
    "aac": _captions,
}
