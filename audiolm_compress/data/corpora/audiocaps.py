"""AudioCaps (Kim et al. 2019, https://github.com/cdjkim/audiocaps): captioned clips of AudioSet.

Layout: ``train.csv``, ``val.csv`` and ``test.csv``, in the folder or in ``dataset/``, with the columns
``audiocap_id,youtube_id,start_time,caption``; validation and test clips have five rows. Audio is not part of
it, and every downloader names it in its own way: a file may lie anywhere below the folder and be called
``ID_START``, ``ID_START_END``, ``YID`` (as in PANNs' copy of AudioSet), ``ID`` or by the ``audiocap_id``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.data.corpora.clip import AudioFiles, Clip, Missing, Offer, chosen, table

SPLITS = ("train", "val", "test")
_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_SECONDS = 10


def offer(folder: Path, splits: Sequence[str] = ()) -> Offer:
    """One entry for each training caption, and for each validation or test clip with all of its captions.

    Raises:
        DataError: there is no CSV file, or not of the form above.
    """
    place = folder / "dataset" if (folder / "dataset").is_dir() else folder
    found = [split for split in SPLITS if (place / f"{split}.csv").is_file()]
    wanted = chosen("AudioCaps", folder, found, splits)
    audio = AudioFiles(folder)
    for split in wanted:
        clips: dict[tuple[str, ...], list[dict[str, str]]] = {}
        for row in table(place / f"{split}.csv", _COLUMNS):
            if not row["caption"].strip():
                yield Missing(row["audiocap_id"], "empty caption")
                continue
            row["start_time"] = row["start_time"].removesuffix(".0")
            columns = ("audiocap_id",) if split == "train" else ("youtube_id", "start_time")
            clips.setdefault(tuple(row[column] for column in columns), []).append(row)
        for rows in clips.values():
            stems = _stems(rows[0])
            extras = {} if split == "train" else {"testset_id": stems[0]}
            texts = tuple(dict.fromkeys(row["caption"].strip() for row in rows))
            yield Clip(audio.find(split, stems), texts, "audiocaption", {**extras, "source": "AudioCaps"})


def _stems(row: dict[str, str]) -> list[str]:
    """The names that the audio file of a row may have."""
    identity, start = row["youtube_id"], row["start_time"]
    with_end = [f"{identity}_{start}_{int(start) + _SECONDS}"] if start.isdigit() else []
    return [f"{identity}_{start}", *with_end, f"Y{identity}", identity, row["audiocap_id"]]
