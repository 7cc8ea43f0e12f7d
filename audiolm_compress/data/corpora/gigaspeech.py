"""GigaSpeech (Chen et al. 2021, arXiv:2106.06909): podcasts, audiobooks and videos with their words.

Layout of the release (https://github.com/SpeechColab/GigaSpeech): ``GigaSpeech.json``, some gigabytes, with

    {"audios": [{"aid", "path": "audio/podcast/P0000/POD0000000001.opus", "segments":
      [{"sid", "begin_time", "end_time", "subsets": ["{XL}"], "text_tn": "WELL <COMMA> YES <PERIOD>"}]}]}

and the recordings below ``audio/``, hours long, so that every segment is cut out as a clip. Segments of
``<SIL>``, ``<MUSIC>``, ``<NOISE>`` and ``<OTHER>`` hold no speech and are left out, as the authors advise.
Tags of punctuation are removed: LibriSpeech has none, and one task should have one way of writing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiolm_compress.data.corpora.clip import Clip, Missing, Offer, Piece, audio_beside, chosen
from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import escapes

SPLITS = ("XS", "S", "M", "L", "XL", "DEV", "TEST")
INDEX = "GigaSpeech.json"
_PUNCTUATION = {"<COMMA>", "<PERIOD>", "<QUESTIONMARK>", "<EXCLAMATIONPOINT>"}
_GARBAGE = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}


def offer(folder: Path, splits: Sequence[str] = ()) -> Offer:
    """Every segment of some subsets, in the order of the index; those of DEV and TEST have a ``testset_id``.

    Raises:
        DataError: there is no index, or it is not of the form above.
    """
    index = folder / INDEX
    wanted = chosen("GigaSpeech", folder, SPLITS if index.is_file() else (), splits)
    for number, audio in enumerate(stream_items(index, key="audios")):
        try:
            yield from _recording(folder, audio, wanted)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index}: recording {number} is not of the form of GigaSpeech 1.0 ({error!r})"
            ) from error


def _recording(folder: Path, audio: dict[str, Any], wanted: Sequence[str]) -> Offer:
    path, name = audio["path"], audio["aid"]
    segments = [
        one for one in audio["segments"] if set(wanted) & {kind.strip("{}") for kind in one["subsets"]}
    ]
    if reason := escapes(path):
        yield from (Missing(one["sid"], f"its recording's path {reason}") for one in segments)
        return
    pure = Path(path)
    file = audio_beside(folder / pure.parent, pure.stem)  # a copy in wav is as good
    for one in segments:
        yield _segment(file, name, one)


def _segment(file: Path, recording: str, segment: dict[str, Any]) -> Clip | Missing:
    name, start, end = segment["sid"], segment["begin_time"], segment["end_time"]
    tags, words = set(), []
    for word in segment["text_tn"].split():
        if word.startswith("<") and word.endswith(">"):
            tags.add(word)
        else:
            words.append(word)
    piece = f"{recording}/{name}"
    if reason := escapes(piece):
        return Missing(name, f"its name {reason}")
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        return Missing(name, "does not end after its beginning")
    if garbage := sorted(tags & _GARBAGE):
        return Missing(name, f"no speech ({garbage[0]})")
    if unknown := sorted(tags - _PUNCTUATION):
        return Missing(name, f"unknown tag {unknown[0]}")
    if not words:
        return Missing(name, "no words")
    test = {"testset_id": name} if {"{DEV}", "{TEST}"} & set(segment["subsets"]) else {}
    extras = {**test, "source": "GigaSpeech"}
    return Clip(file, (" ".join(words).capitalize(),), "asr", extras, Piece(piece, start, end))
