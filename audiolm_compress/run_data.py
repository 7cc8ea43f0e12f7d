"""The clips of a run: where the word ``tiny`` leads, and a look at every file before any work."""

from __future__ import annotations

from collections.abc import Sequence

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import load_examples
from audiolm_compress.measurement.settings import ClipSource
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import DataSettings, Recipe
from audiolm_compress.salmonn.load import TINY


def load_calibration(recipe: Recipe, progress: Progress) -> list[Example]:
    """The recipe's calibration clips.

    Raises:
        DataError: the annotation or audio files cannot be used.
    """
    progress.start("reading the calibration clips", 1)
    data = recipe.data
    loaded = load_examples(
        calibration_file(data),
        prefix=_prefix(data, (data.calibration,)),
        channel=data.channel,
        on_bad_audio=data.on_bad_audio,
        limit=data.calibration_clips,
    )
    return loaded.examples


def checked_clips(recipe: Recipe, progress: Progress) -> ClipSource:
    """What both models are to be measured on, after every file of it was read once.

    Raises:
        DataError: the annotation or audio files cannot be used.
    """
    progress.start("checking the test clips", 1)
    clips = clip_source(recipe.data)
    load_examples(
        clips.test,
        prefix=clips.prefix,
        channel=clips.channel,
        on_bad_audio=clips.on_bad_audio,
        limit=recipe.benchmark.max_clips,
    )
    return clips


def calibration_file(data: DataSettings) -> str:
    """The annotation of the calibration clips, with a file in the place of a word."""
    return _paths((data.calibration,), "calibration")[0]


def clip_source(data: DataSettings) -> ClipSource:
    """The test clips of a recipe, with files in the place of words."""
    return ClipSource(
        test=tuple(_paths(data.test, "test")),
        prefix=_prefix(data, data.test),
        channel=data.channel,
        on_bad_audio=data.on_bad_audio,
    )


def _paths(names: Sequence[str], split: str) -> list[str]:
    return [str(TINY / "data" / f"{split}.json") if name == "tiny" else name for name in names]


def _prefix(data: DataSettings, names: Sequence[str]) -> str | None:
    """The embedded clips lie beside their annotation, whatever folder the recipe's own files start from."""
    return None if "tiny" in names else data.prefix
