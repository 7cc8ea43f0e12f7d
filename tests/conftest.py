"""Small real models for all tests, the upstream parity sets with whole checkpoints; and measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import soundfile
import torch

from audiolm_compress.measurement.groups import figures, grouped
from audiolm_compress.measurement.measurements import (
    ClipResult,
    ClipScore,
    Edits,
    Latency,
    Measurements,
    Memory,
    Spread,
)
from audiolm_compress.salmonn.model import Salmonn
from audiolm_compress.salmonn.upstream import load_upstream

PARITY = Path(__file__).parent / "fixtures" / "upstream_parity"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves campaigns out unless ``-m`` speaks of them (in addopts, ``-m 'not slow'`` would let them in)."""
    if "campaign" in config.option.markexpr:
        return
    campaigns = [item for item in items if item.get_closest_marker("campaign")]
    if campaigns:
        config.hook.pytest_deselected(items=campaigns)
        items[:] = [item for item in items if item not in campaigns]


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the parity sets."""
    return PARITY


@pytest.fixture(scope="session")
def clips() -> list[torch.Tensor]:
    """Two clips of 10 s and 3.2 s, float32 [samples] at 16 kHz."""
    audio = PARITY / "llama" / "audio"
    return [torch.from_numpy(soundfile.read(audio / f"clip{i}.wav", dtype="float32")[0]) for i in (0, 1)]


@pytest.fixture
def small_model() -> Callable[[str], Salmonn]:
    """Loads a fresh random SALMONN (``gemma`` or ``llama``), float32, LoRA unmerged."""
    return lambda variant="llama": load_upstream(PARITY / variant / "config.yaml")


def latency(protocol: str, ttft: float, tpot: float) -> Latency:
    return Latency(protocol, Spread(ttft, ttft, ttft, 5), Spread(tpot, tpot, tpot, 5), 8.0)


def side(
    errors: Sequence[int] = (0, 1, 2, 1),
    cider: Sequence[float] = (1.0, 2.0, 3.0),
    weight_bytes: int = 4 * 2**20,
    tpot: float = 0.010,
    kernels: dict[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Measurements:
    """A model with four recognition clips of ten words each and three caption clips."""
    clips = [
        ClipResult(
            f"s{i}",
            "asr",
            f"heard | {i}",
            (f"said {i}",),
            f"s{i}.wav",
            2.0,
            source="read",
            edits=Edits(count, 0, 0, 10),
            scores={"wer": ClipScore(count, 10)},
        )
        for i, count in enumerate(errors)
    ]
    clips += [
        ClipResult(
            f"a{i}",
            "audiocaption",
            f"sound {i}",
            ("rain", "water"),
            f"a{i}.wav",
            8.0,
            source="outside",
            scores={"cider_d": ClipScore(value, 1)},
        )
        for i, value in enumerate(cider)
    ]
    groups, _ = grouped(clips, (5.0, 10.0), seed=0)
    return Measurements(
        source="model",
        weight_bytes=weight_bytes,
        weight_bytes_by_part={"speech_encoder": weight_bytes // 4, "llm": 3 * weight_bytes // 4},
        memory=Memory(10 * 2**20, None, None, "resident set"),
        clips_latency=latency("7 real clips", 0.2, tpot),
        noise_latency=latency("ten seconds of noise", 0.3, tpot * 2),
        scores=figures(clips, seed=0),
        unscored=dict.fromkeys(("spider", "spice"), "SPICE not installed: no Java") if cider else {},
        edits=Edits(sum(errors), 0, 0, 10 * len(errors)),
        groups=groups,
        counts={
            "clips": 7,
            "clips_asr": 4,
            "clips_audiocaption": 3,
            "padded": 2,
            "truncated": 1,
            "skipped": 3,
        },
        skipped=(("broken.wav", "empty file"),),
        decode={"asr": {"num_beams": 1}},
        clips=tuple(clips),
        environment={"device": "cpu", **({"kernels": kernels} if kernels else {})},
        load_seconds=0.1,
        notes=notes,
    )


@pytest.fixture
def measured() -> Callable[..., Measurements]:
    """Makes the measurements of a model; arguments as those of ``side``."""
    return side
