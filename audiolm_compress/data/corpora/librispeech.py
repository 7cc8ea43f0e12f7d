"""LibriSpeech (Panayotov et al. 2015, https://www.openslr.org/12): read English with its text.

Layout, as the archives unpack: ``LibriSpeech/SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac``, beside them
``SPEAKER-CHAPTER.trans.txt`` with a line ``SPEAKER-CHAPTER-NNNN TEXT IN CAPITALS`` for each. Upstream writes
such a text with one capital (its ``data/example_data.json``), and so does this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.data.corpora.clip import SUFFIXES, Clip, Missing, Offer, audio_beside, chosen
from audiolm_compress.errors import DataError

_NAME = "LibriSpeech"
_TRANSCRIPTS = "*/*/*.trans.txt"


def offer(folder: Path, splits: Sequence[str] = ()) -> Offer:
    """Every utterance of some splits; those of dev and test sets have their name as ``testset_id``.

    Raises:
        DataError: the folder has another layout, or a transcript cannot be read.
    """
    root = folder / _NAME if (folder / _NAME).is_dir() else folder
    found = sorted(path.name for path in root.glob("*") if next(path.glob(_TRANSCRIPTS), None))
    for split in chosen(_NAME, folder, found, splits):
        for transcript in sorted((root / split).glob(_TRANSCRIPTS)):
            yield from _chapter(transcript, split)


def _chapter(transcript: Path, split: str) -> Offer:
    try:
        lines = transcript.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{transcript}: cannot be read ({error})") from error
    told = set()
    for line in filter(None, map(str.strip, lines)):
        name, _, text = line.partition(" ")
        told.add(name)
        if text.strip():
            extras = {"testset_id": name} if split.startswith(("dev", "test")) else {}
            file = audio_beside(transcript.parent, name)
            yield Clip(file, (text.strip().capitalize(),), "asr", {**extras, "source": _NAME})
        else:
            yield Missing(name, "no text in the transcript")
    for file in sorted(transcript.parent.iterdir()):
        if file.suffix in SUFFIXES and file.stem not in told:
            yield Missing(str(file), "not in the transcript")
