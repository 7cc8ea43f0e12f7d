"""Clotho (Drossos et al. 2020, https://zenodo.org/records/4783391): sounds of 15 to 30 s, five captions each.

Layout: ``clotho_captions_SPLIT.csv`` with the columns ``file_name,caption_1,...,caption_5`` for the splits
development (which is for training), validation and evaluation; the archives of audio unpack into folders of
the splits' names, which may lie anywhere below the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.data.corpora.clip import AudioFiles, Clip, Missing, Offer, chosen, table

SPLITS = ("development", "validation", "evaluation")
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def offer(folder: Path, splits: Sequence[str] = ()) -> Offer:
    """Five entries a file for development; for validation and evaluation one, with all captions.

    Raises:
        DataError: there is no CSV file, or not of the form above.
    """
    found = [split for split in SPLITS if _captions(folder, split).is_file()]
    wanted = chosen("Clotho", folder, found, splits)
    audio = AudioFiles(folder)
    for split in wanted:
        for row in table(_captions(folder, split), ("file_name", *_CAPTIONS)):
            stem = Path(row["file_name"]).stem
            file = audio.find(split, [stem])
            texts = [text for column in _CAPTIONS if (text := row[column].strip())]
            for _ in range(len(_CAPTIONS) - len(texts)):
                yield Missing(row["file_name"], "empty caption")
            if split == "development":
                yield from (Clip(file, (text,), "audiocaption", {"source": "Clotho"}) for text in texts)
            elif texts:
                extras = {"testset_id": stem, "source": "Clotho"}
                yield Clip(file, tuple(dict.fromkeys(texts)), "audiocaption", extras)


def _captions(folder: Path, split: str) -> Path:
    return folder / f"clotho_captions_{split}.csv"
