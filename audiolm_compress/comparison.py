"""Models measured on the same clips, without a recipe between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audiolm_compress.errors import AudioLMError
from audiolm_compress.measurement.environment import describe_environment
from audiolm_compress.measurement.process import Model, measure_together
from audiolm_compress.measurement.settings import BenchmarkSettings
from audiolm_compress.passes.base import Progress
from audiolm_compress.recipe import data_settings
from audiolm_compress.recipe_sections import DataSettings
from audiolm_compress.report.benchmark import Benchmark, called
from audiolm_compress.run_data import clip_source
from audiolm_compress.salmonn.load import check_source
from audiolm_compress.training.shards import on_main, own_device


def benchmark(
    models: Sequence[str | Path],
    data: str | Path | Sequence[str | Path] | DataSettings = "tiny",
    *,
    settings: BenchmarkSettings | None = None,
    device: str | None = None,
    seed: int = 0,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Benchmark:
    """Measure models, each in a fresh process, and compare them: size, memory, latency and quality.

    They are timed in turns, see ``benchmark.latency.interleave``.

    All processes of a launch must call it; they share the answers, and all get the benchmark.

    Args:
        models: anything that ``load_model`` takes; the first is the baseline of the others. The same model
            may be named more than once.
        data: annotation files with the test clips, ``tiny`` for the embedded ones, or the ``data`` section of
            a recipe.
        settings: how to measure.
        device: where the models run; default: cuda if there is one.
        seed: of the noise protocol, of sampling, of the bootstrap and of the randomisation test.
        notes: for the reader, such as the command that was given.
        progress: where to show the state.

    Raises:
        AudioLMError: no model, or one of them or the clips cannot be used.

    Example:
        >>> found = benchmark(["tiny", "out/mine"])  # doctest: +SKIP
        >>> print(found.table())  # doctest: +SKIP
    """
    if not models:
        raise AudioLMError("benchmark: asked to measure no model; name at least one")
    for model in models:
        check_source(model)
    device = own_device(device)
    if not isinstance(data, DataSettings):
        files = [data] if isinstance(data, (str, Path)) else data
        data = data_settings(test=[str(file) for file in files])
    clips = clip_source(data)
    names = called([str(model) for model in models])
    sides = measure_together(
        [Model(name, model) for name, model in zip(names, models, strict=True)],
        clips,
        settings or BenchmarkSettings(),
        device=device,
        seed=seed,
        progress=progress,
    )
    return on_main(
        lambda: Benchmark.of(
            names,
            sides,
            environment=describe_environment(device, seed) | {"data": sides[0].environment["data"]},
            notes=notes,
            seed=seed,
        )
    )
