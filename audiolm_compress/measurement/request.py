"""What the measuring process is asked to do."""

from __future__ import annotations

from audiolm_compress.measurement.settings import BenchmarkSettings, ClipSource
from audiolm_compress.salmonn.asking import Asking
from audiolm_compress.settings import Settings


class Request(Settings):
    """One model to measure; passed to the process as a JSON file.

    Attributes:
        source: what ``load_model`` is given.
        clips: the test clips.
        settings: how to measure.
        device: where the model runs.
        seed: of the noise and of sampling, where the decode settings sample.
        allow_missing: passed on to ``load_model``.
        asking: prompts and decode settings in the place of the model's own.
        share: which of how many processes this is, from 0; of several, all answer a share of the clips, and
            the first measures everything else.
        in_turns: whether other models are timed in turn with this one.
    """

    source: str
    clips: ClipSource
    settings: BenchmarkSettings
    device: str
    seed: int
    allow_missing: bool = False
    asking: Asking | None = None
    share: tuple[int, int] = (0, 1)
    in_turns: bool = False
