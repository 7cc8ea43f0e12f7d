"""How good a model's answers are: the scores of every clip, of the test set and of groups of clips.

Answering happens in the measured process, scoring in the one that started it: the scorers' libraries are
heavy and would be counted as the model's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from audiolm_compress.data.tasks import TaskKind
from audiolm_compress.measurement.clip_result import ClipResult, ClipScore, Group, Score
from audiolm_compress.measurement.groups import figures, grouped
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.fluency import fense, fluency_errors
from audiolm_compress.metrics.question_answers import match_answers
from audiolm_compress.metrics.scores import SCORES
from audiolm_compress.metrics.similarity import sentence_similarity
from audiolm_compress.metrics.spider import spider
from audiolm_compress.metrics.wer import Edits, wer

_NO_SENTENCE_MODEL = (
    "no sentence encoder is given; name a folder that holds one, such as paraphrase-TinyBERT-L6-v2, as "
    "benchmark.sentence_model"
)
_NO_FLUENCY_MODEL = (
    "no error detector is given; name a folder that holds FENSE's as benchmark.fluency_model "
    "(metrics/fluency.py tells how to make it)"
)


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

    scores: Mapping[str, Sequence[ClipScore | None]] = field(default_factory=dict)
    unscored: Mapping[str, str] = field(default_factory=dict)
    edits: Sequence[Edits] = ()

    def of(self, name: str, index: int) -> ClipScore | None:
        """A score of one of the clips."""
        return self.scores[name][index] if name in self.scores else None


def score(clips: Sequence[ClipResult], seed: int = 0, settings: BenchmarkSettings | None = None) -> Scores:
    """Score answers by the kind of their task.

    Recognition: WER against the first reference. Captions: CIDEr-D, and SPIDEr and SPICE where that is
    installed, and similarity and FENSE where their models are given, against all of theirs. Questions:
    accuracy against any of their references, without which a clip is not scored.

    Args:
        clips: answered clips; scores that they carry already are computed anew.
        seed: of the bootstrap intervals.
        settings: models for scores that need one, how captions are compared, and lengths that part the clips
            into groups.

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
        found = scorer([scored[place] for place in places], settings)
        unscored |= found.unscored
        for index, place in enumerate(places):
            own = {name: value for name in SCORES if (value := found.of(name, index)) is not None}
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


def _recognition(clips: Sequence[ClipResult], settings: BenchmarkSettings) -> _Found:
    result = wer([clip.text for clip in clips], [clip.references[0] for clip in clips])
    scores = [ClipScore(edits.errors, edits.words) for edits in result.per_clip]
    return _Found({"wer": scores}, edits=result.per_clip)


def _captions(clips: Sequence[ClipResult], settings: BenchmarkSettings) -> _Found:
    texts, references = [clip.text for clip in clips], [clip.references for clip in clips]
    words, meaning = _by_words(texts, references, settings), _by_meaning(texts, references, settings)
    return _Found({**words.scores, **meaning.scores}, {**words.unscored, **meaning.unscored})


def _by_words(
    texts: Sequence[str], references: Sequence[Sequence[str]], settings: BenchmarkSettings
) -> _Found:
    if len(texts) == 1:
        reason = "needs at least two caption clips; the test set has one"
        return _Found(unscored=dict.fromkeys(("cider_d", "spider", "spice"), reason))
    normalise = not settings.raw_captions
    _, consensus = cider_d(texts, references, normalise=normalise)
    scores = {"cider_d": _means(consensus)}
    found = spider(texts, references, normalise=normalise)
    if found.note:
        return _Found(scores, dict.fromkeys(("spider", "spice"), found.note))
    return _Found(scores | {"spider": _means(found.per_clip), "spice": _means(found.spice_per_clip)})


def _by_meaning(
    texts: Sequence[str], references: Sequence[Sequence[str]], settings: BenchmarkSettings
) -> _Found:
    if settings.sentence_model is None:
        return _Found(unscored=dict.fromkeys(("similarity", "fense"), _NO_SENTENCE_MODEL))
    similarity = sentence_similarity(texts, references, settings.sentence_model)
    scores = {"similarity": _means(similarity)}
    if settings.fluency_model is None:
        return _Found(scores, {"fense": _NO_FLUENCY_MODEL})
    errors = fluency_errors(texts, settings.fluency_model)
    return _Found(scores | {"fense": _means(map(fense, similarity, errors))})


def _answers(clips: Sequence[ClipResult], settings: BenchmarkSettings) -> _Found:
    with_answer = [any(text.strip() for text in clip.references) for clip in clips]
    asked = [clip for clip, known in zip(clips, with_answer, strict=True) if known]
    if not asked:
        reason = "no question of the test set has a reference answer"
        return _Found(unscored=dict.fromkeys(("qa_exact", "qa_match"), reason))
    matches = iter(match_answers([clip.text for clip in asked], [clip.references for clip in asked]))
    found = [next(matches) if known else None for known in with_answer]
    return _Found(
        {
            "qa_exact": [None if match is None else ClipScore(float(match.exact), 1) for match in found],
            "qa_match": [None if match is None else ClipScore(float(match.normalised), 1) for match in found],
        }
    )


def _means(values: Iterable[float]) -> list[ClipScore]:
    """Scores whose figure is their mean."""
    return [ClipScore(float(value), 1) for value in values]


_SCORERS: Mapping[TaskKind, Callable[[Sequence[ClipResult], BenchmarkSettings], _Found]] = {
    "asr": _recognition,
    "aac": _captions,
    "qa": _answers,
}
