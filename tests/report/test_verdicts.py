"""A model does not differ from itself, and one that gets 5 % of its answers wrong is found out.

Answers are simulated from the references of the embedded test clips and go the whole way: scored, compared
and judged. A recogniser mishears, loses or adds each word with a chance that depends on how hard the clip
is; a captioner gives one of the clip's references with such words, or hears something else. Every seed
draws anew, so that "the same model" is as noisy as one that samples.

The embedded set is too small to find 5 % of wrong answers: of 65 clips they are three, and three coins that
fall on one side are no evidence. Eight copies of its clips, 1168 in all, are enough if the other answers
stay the same, as those of a compressed model that decodes greedily mostly do. If all answers are drawn
anew, twice as many recognition clips show it in WER, and captions would have to be some thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from audiolm_compress.data.annotation import read_annotation
from audiolm_compress.measurement.measurements import ClipResult, Measurements
from audiolm_compress.measurement.scoring import score
from audiolm_compress.report.differences import differences, verdict
from audiolm_compress.salmonn.load import TINY

Measured = Callable[..., Measurements]

SEEDS = range(20)


def clips(sets: int = 1) -> list[ClipResult]:
    """The embedded test clips without answers, each as often as there are ``sets``."""
    return [
        ClipResult(f"{number}/{entry.id}", entry.task, "", entry.texts, entry.path, 2.0)
        for number in range(sets)
        for entry in read_annotation(TINY / "data" / "test.json")
    ]


def answered(of: Sequence[ClipResult], seed: int) -> list[ClipResult]:
    """What one noisy model says; the same clips are hard for all seeds."""
    hardness, noise = np.random.default_rng(0), np.random.default_rng(seed)
    vocabulary = sorted({word for clip in of for word in clip.references[0].split()})
    captions = [clip.references[0] for clip in of if clip.kind == "aac"]
    found = []
    for clip in of:
        wrong, said = hardness.beta(0.4, 1.6), clip.references[0]
        if clip.kind == "aac":
            choices = captions if noise.random() < wrong else clip.references
            said = choices[noise.integers(len(choices))]
        words = []
        for word in said.split():
            event = noise.random() / wrong
            words += [vocabulary[noise.integers(len(vocabulary))]] if event < 0.7 else []
            words += [word] if event >= 0.85 or event < 0.15 else []
        found.append(replace(clip, text=" ".join(words)))
    return found


def corrupted(answers: Sequence[ClipResult], share: float, seed: int) -> list[ClipResult]:
    """Of each kind of clips a share gets another clip's answer, or half of its own."""
    generator = np.random.default_rng(seed)
    found = list(answers)
    for kind in ("asr", "aac"):
        places = [place for place, clip in enumerate(answers) if clip.kind == kind]
        for turn, place in enumerate(generator.choice(places, round(share * len(places)), replace=False)):
            words = answers[place].text.split()
            text = " ".join(words[: len(words) // 2])
            if turn % 2:
                text = answers[generator.choice([other for other in places if other != place])].text
            found[place] = replace(found[place], text=text)
    return found


def judged(baseline: Measurements, candidate: Measurements, seed: int = 0) -> dict[str, str]:
    found = differences(baseline, candidate, seed=seed)
    return {score: verdict(score, result) for score, result in found.items()}


def measurements(measured: Measured, answers: Sequence[ClipResult]) -> Measurements:
    scores = score(answers)
    return replace(measured(), clips=scores.clips, scores=scores.scores, unscored=scores.unscored)


def test_the_same_answers_are_within_noise_whatever_is_drawn(measured: Measured) -> None:
    side = measurements(measured, answered(clips(), seed=0))
    for seed in SEEDS:
        assert judged(side, side, seed) == {"wer": "within noise", "cider_d": "within noise"}


@pytest.mark.slow
def test_a_model_that_samples_does_not_differ_from_itself_at_one_per_cent(measured: Measured) -> None:
    """Twenty pairs. A test at one per cent would call one of a hundred, whatever it is computed by."""
    for seed in SEEDS:
        first, second = (measurements(measured, answered(clips(), 2 * seed + turn)) for turn in (0, 1))
        assert [clip.text for clip in first.clips] != [clip.text for clip in second.clips]
        assert all(found.p_value > 0.01 for found in differences(first, second, seed=seed).values())
        assert not {"better", "worse"} & set(judged(first, second, seed).values())


@pytest.mark.slow
def test_five_per_cent_of_wrong_answers_make_a_model_worse(measured: Measured) -> None:
    answers = answered(clips(8), seed=0)
    side = measurements(measured, answers)
    for seed in range(3):
        other = measurements(measured, corrupted(answers, 0.05, seed))
        assert judged(side, other) == {"wer": "worse", "cider_d": "worse"}
        assert set(judged(other, side).values()) == {"better"}


@pytest.mark.slow
def test_wrong_answers_are_found_through_the_noise_of_the_others(measured: Measured) -> None:
    spoken = [clip for clip in clips(16) if clip.kind == "asr"]
    side = measurements(measured, answered(spoken, seed=0))
    for seed in range(3):
        other = measurements(measured, corrupted(answered(spoken, seed=1 + seed), 0.05, seed))
        assert judged(side, other) == {"wer": "worse"}
