"""Models measured on the same clips, without a recipe between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.measurement.process import Model, measure_together
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import DataSettings, data_settings
from audiolm_compress.report import Report
from audiolm_compress.run_data import clip_source
from audiolm_compress.training.shards import from_main, own_device


def benchmark(
    models: Sequence[str | Path],
    data: str | Path | Sequence[str | Path] | DataSettings = "tiny",
    *,
    settings: BenchmarkSettings | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compare two models: size, memory, latency and quality, with intervals of the differences.

    All processes of a launch must call it; they share the answers, and all get the report.

    Args:
        models: the baseline and the candidate; anything that ``load_model`` takes.
        data: annotation files with the test clips, ``tiny`` for the embedded ones, or the ``data`` section of
            a recipe.
        settings: how to measure.
        device: where the models run; default: cuda if there is one.
        seed: of the noise protocol and of the bootstrap.
        progress: where to show the state.

    Raises:
        AudioLMError: not two models, or one of them or the clips cannot be used.
    """
    if len(models) != 2:
        raise AudioLMError(f"benchmark: compares two models, baseline and candidate; found {len(models)}")
    device = own_device(device)
    baseline, candidate = measure_models(
        models, data, settings=settings, device=device, seed=seed, progress=progress
    )
    environment = describe_environment(device, seed) | {"data": candidate.environment["data"]}
    return from_main(Report.of(baseline, candidate, environment=environment))


def measure_models(
    models: Sequence[str | Path],
    data: str | Path | Sequence[str | Path] | DataSettings = "tiny",
    *,
    settings: BenchmarkSettings | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Measurements]:
    """Each model in a fresh process, on the same clips, timed in turns; else as ``benchmark``."""
    if not isinstance(data, DataSettings):
        files = [data] if isinstance(data, (str, Path)) else data
        data = data_settings(test=[str(file) for file in files])
    clips = clip_source(data)
    return measure_together(
        [Model(str(model), model) for model in models],
        clips,
        settings or BenchmarkSettings(),
        device=device,
        seed=seed,
        progress=progress,
    )
