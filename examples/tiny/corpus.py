"""What the stages of training learn from: the training shards, their texts, their cached states."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from data import Item, Targets, read_items
from shards import read_clips, shard_names
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase


def is_training(name: str) -> bool:
    """Whether a shard is for training."""
    return not name.endswith(("_test", "_valid", "_calib", "_heldout"))


def load_vocabularies(folder: Path) -> tuple[PreTrainedTokenizerBase, Tokenizer]:
    """Tokenizer and units of the stage ``vocabulary``."""
    return AutoTokenizer.from_pretrained(folder / "tokenizer"), Tokenizer.from_file(
        str(folder / "units.json")
    )


def gather_texts(folders: Sequence[Path]) -> tuple[list[str], list[str]]:
    """All different sentences and captions of the training shards."""
    speech: dict[str, None] = {}
    captions: dict[str, None] = {}
    for folder in folders:
        for name in shard_names(folder):
            if is_training(name):
                for clip in read_clips(folder, name):
                    if clip.task == "asr":
                        speech[clip.text] = None
                    else:
                        captions |= dict.fromkeys(clip.texts)
    return list(speech), list(captions)


def read_targets(folders: Sequence[Path], units: Tokenizer) -> Targets:
    """Units of text and of the recordings of aac_train."""
    recordings = [clip.source for clip in read_clips(folders[-1], "aac_train")]
    return Targets(units, recordings)


def reading_rows(
    folders: Sequence[Path], further: Path | None, targets: Targets
) -> list[tuple[str, list[int]]]:
    """Texts with the units that they are to be written from: of the training clips, then a file's lines."""
    rows = {}
    for folder in folders:
        for name in filter(is_training, shard_names(folder)):
            for clip in read_clips(folder, name):
                if units := targets(clip):
                    rows[clip.text] = units
    if further:
        for text in further.read_text(encoding="utf-8").splitlines():
            rows.setdefault(text, targets.units.encode(text).ids)
    return list(rows.items())


def cached_items(
    folders: Sequence[Path], cache: Path, encoders: Sequence[str], wanted: Callable[[str], bool]
) -> list[Item]:
    """Items of the wanted shards whose states are cached."""
    items = []
    for folder in folders:
        names = [
            n
            for n in shard_names(folder)
            if wanted(n) and all((cache / f"{n}.{e}.json").exists() for e in encoders)
        ]
        items += read_items(folder, cache, names, encoders)
    return items


def chosen_items(
    folders: Sequence[Path],
    cache: Path,
    encoders: Sequence[str],
    *,
    own: Path | None,
    sounds: float,
    seed: int,
) -> list[Item]:
    """The training clips whose states are cached, with a share of those of sounds.

    With ``own``, a second cache, only those whose states are there too.
    """

    def wanted(name: str) -> bool:
        return is_training(name) and (own is None or (own / f"{name}.beats.json").exists())

    kept = random.Random(seed)
    items = cached_items(folders, cache, encoders, wanted)
    return [item for item in items if item.kind == "asr" or kept.random() < sounds]
