"""Answers score clip by clip as they do in a test set."""

from __future__ import annotations

import numpy as np
import pytest

from audiolm_compress.metrics.answers import score_answers
from audiolm_compress.metrics.cider import cider_d
from audiolm_compress.metrics.wer import wer

SAID = [["a dog barks loudly", "a dog"], ["rain falls on a roof", "rain"], ["birds sing in a tree", "birds"]]
HEARD = ["a dog barks", "rain on a roof", "a cat in a tree"]


def test_all_clips_give_the_figure_of_the_metric() -> None:
    found = score_answers("wer", HEARD, SAID, ())
    assert found.figure == pytest.approx(wer(HEARD, [many[0] for many in SAID]).wer)
    assert found.losses.mean() == pytest.approx(found.figure)
    captions = score_answers("cider_d", HEARD, SAID, ())
    assert captions.figure == pytest.approx(cider_d(HEARD, SAID)[0])
    assert captions.losses.mean() == pytest.approx(-captions.figure)


def test_a_part_of_the_clips_keeps_the_scores_that_it_has_among_all() -> None:
    _, scores = cider_d(HEARD, SAID)
    part = score_answers("cider_d", HEARD[1:2], SAID[1:2], [SAID[0], SAID[2]])
    assert np.allclose(part.amounts, scores[1])
