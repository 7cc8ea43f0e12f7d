"""The clips of a run: where the word ``tiny`` leads, and a look at every file before any work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import Examples, load_examples
from audiolm_compress.errors import DataError
from audiolm_compress.measurement.settings import ClipSource
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import Recipe
from audiolm_compress.recipe_sections import EMBEDDED_CLIPS, DataSettings
from audiolm_compress.salmonn.load import TINY
from audiolm_compress.stage_keys import clips_digest
from audiolm_compress.training.features import FeatureCache


@dataclass(frozen=True)
class TrainingClips:
    """Clips for learning alone.

    Attributes:
        examples: empty if the recipe gives none, or none of its passes learns.
        notes: what was left out or not used, for the report.
    """

    examples: Sequence[Example]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckedClips:
    """Test clips, and a hash of what was in their files.

    Attributes:
        source: the files.
        digest: of samples, tasks and texts.
    """

    source: ClipSource
    digest: str


def load_calibration(recipe: Recipe, progress: Progress) -> list[Example]:
    """The recipe's calibration clips.

    Raises:
        DataError: the annotation or audio files cannot be used.
    """
    progress.start("reading the calibration clips", 1)
    data = recipe.data
    with section("calibration"):
        return _load(data, data.calibration, calibration_file(data), data.calibration_clips).examples


def load_training(recipe: Recipe, progress: Progress) -> TrainingClips:
    """The recipe's training clips, if one of its passes will learn from them.

    Raises:
        DataError: the annotation or audio files cannot be used.
    """
    data, file = recipe.data, training_file(recipe)
    if data.training is None:
        return TrainingClips(())
    if file is None:
        return TrainingClips((), ("data.training was not used: no pass of the recipe learns",))
    progress.start("reading the training clips", 1)
    with section("training"):
        loaded = _load(data, data.training, file, data.training_clips)
    bad = [f"data.training: {path} was left out: {reason}" for path, reason in loaded.bad]
    return TrainingClips(loaded.examples, tuple(bad))


def checked_clips(recipe: Recipe, progress: Progress) -> CheckedClips:
    """What both models are to be measured on, after every file of it was read once.

    Raises:
        DataError: the annotation or audio files cannot be used.
    """
    progress.start("checking the test clips", 1)
    clips = clip_source(recipe.data)
    with section("test"):
        loaded = load_examples(
            clips.test,
            prefix=clips.prefix,
            channel=clips.channel,
            on_bad_audio=clips.on_bad_audio,
            limit=recipe.benchmark.max_clips,
        )
    return CheckedClips(clips, clips_digest(loaded.examples))


def calibration_file(data: DataSettings) -> str:
    """The annotation of the calibration clips, with a file in the place of a word."""
    return _paths((data.calibration,), "calibration")[0]


def training_file(recipe: Recipe) -> str | None:
    """The annotation of the training clips; None if there is none, or no pass of the recipe learns."""
    name = recipe.data.training
    if name is None or not any(entry.learns for entry in recipe.passes):
        return None
    return _paths((name,), "training")[0]


def clip_source(data: DataSettings) -> ClipSource:
    """The test clips of a recipe, with files in the place of words."""
    return ClipSource(
        test=tuple(_paths(data.test, "test")),
        prefix=_prefix(data, data.test),
        channel=data.channel,
        on_bad_audio=data.on_bad_audio,
    )


@contextmanager
def section(name: str) -> Iterator[None]:
    """Inside, a ``DataError`` begins with the entry of ``data`` whose clips are at fault."""
    try:
        yield
    except DataError as error:
        raise DataError(f"data.{name}: {error}") from error


def _load(data: DataSettings, name: str, file: str, limit: int | None) -> Examples:
    return load_examples(
        file,
        prefix=_prefix(data, (name,)),
        channel=data.channel,
        on_bad_audio=data.on_bad_audio,
        limit=limit,
    )


def _paths(names: Sequence[str], split: str) -> list[str]:
    """Files in the place of words: ``tiny`` means the embedded clips that are made for the purpose."""
    splits = dict(zip(EMBEDDED_CLIPS, (split, "validation"), strict=True))
    return [str(TINY / "data" / f"{splits[name]}.json") if name in splits else name for name in names]


def _prefix(data: DataSettings, names: Sequence[str]) -> str | None:
    """The embedded clips lie beside their annotation, whatever folder the recipe's own files start from."""
    return None if set(names) & set(EMBEDDED_CLIPS) else data.prefix


@contextmanager
def feature_cache(recipe: Recipe) -> Iterator[FeatureCache | None]:
    """Where passes that learn keep what the baseline gives for a clip; None if there is no such pass."""
    if not any(entry.learns for entry in recipe.passes):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="audiolm_compress_features_") as temporary:
        folder = recipe.data.feature_cache or temporary
        yield FeatureCache(folder, int(recipe.data.feature_cache_gib * 2**30))
