"""WavCaps (Mei et al. 2023, arXiv:2303.17395): 400,000 sounds with captions that a language model wrote.

Layout of https://huggingface.co/datasets/cvssp/WavCaps: ``json_files/SOURCE/*_final.json`` with

    {"num_captions_per_audio": 1, "data": [{"id", "caption", "duration", ...}]}

for the sources AudioSet_SL, BBC_Sound_Effects, FreeSound and SoundBible; the archives of audio unpack into
folders named SOURCE_flac, which may lie anywhere below the folder, with files named by the ``id``. Clips of
AudioSet and FreeSound are also in AudioCaps and Clotho: ``json_files/blacklist`` says which.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audiolm_compress.data.corpora.clip import SUFFIXES, Clip, Missing, Offer, audio_beside, chosen
from audiolm_compress.data.stream import stream_items
from audiolm_compress.errors import DataError
from audiolm_compress.untrusted import read_json

FILES = {
    "AudioSet_SL": "as_final.json",
    "BBC_Sound_Effects": "bbc_final.json",
    "FreeSound": "fsd_final.json",
    "SoundBible": "sb_final.json",
}
# test_ac: the test sets of AudioCaps and Clotho; all_ac: also what those train with.
BLACKLISTS = ("test_ac", "all_ac", "ub8k_esc50_vggsound")
_BLACKLISTED = {"AudioSet_SL": "AudioSet", "FreeSound": "FreeSound"}


def offer(folder: Path, splits: Sequence[str] = (), exclude: str = "test_ac") -> Offer:
    """Every sound of some sources, all by default.

    Args:
        folder: as above.
        splits: sources.
        exclude: one of ``BLACKLISTS``, whose clips are left out; empty for none.

    Raises:
        DataError: there is no index or no blacklist, or not of the form above.
    """
    index = folder / "json_files"
    found = [source for source, name in FILES.items() if (index / source / name).is_file()]
    wanted = chosen("WavCaps", folder, found, splits or found)
    excluded = _blacklist(index / "blacklist" / f"blacklist_exclude_{exclude}.json") if exclude else {}
    for source in wanted:
        place = _place(folder, source)
        left_out = excluded.get(_BLACKLISTED.get(source, ""), set())
        for number, item in enumerate(stream_items(index / source / FILES[source], key="data")):
            try:
                yield _sound(place, source, item, left_out, exclude)
            except (KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{FILES[source]}: item {number} is not of the form of WavCaps ({error!r})"
                ) from error


def _sound(
    place: Path, source: str, item: dict[str, Any], left_out: set[str], exclude: str
) -> Clip | Missing:
    name, caption = str(item["id"]), item["caption"].strip()
    if name.removesuffix(".wav") in left_out:
        return Missing(name, f"in the blacklist {exclude}")
    if not caption:
        return Missing(name, "empty caption")
    if "/" in name or "\\" in name:
        return Missing(name, "its id is no file name")
    # Ids of AudioSet end in .wav, those of FreeSound are numbers.
    file = audio_beside(place, name.removesuffix(".wav"))
    extras = {"source": f"WavCaps {source}", "duration": item["duration"]}
    return Clip(file, (caption,), "audiocaption", extras)


def _blacklist(path: Path) -> dict[str, set[str]]:
    try:
        content = read_json(path)
        return {
            source: {str(name).removesuffix(".wav") for name in names} for source, names in content.items()
        }
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); it tells which clips are in other test sets: "
            "download it, or give --exclude none to keep them"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: is no blacklist of WavCaps ({error})") from error


def _place(folder: Path, source: str) -> Path:
    """Where a source's audio lies; where it should lie if it is nowhere."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        if Path(place).name in (source, f"{source}_flac") and any(name.endswith(SUFFIXES) for name in names):
            return Path(place)
    return folder / f"{source}_flac"
