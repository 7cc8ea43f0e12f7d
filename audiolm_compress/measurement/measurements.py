"""What is known about one model after it was measured; the two sides of a report are of this form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from audiolm_compress.measurement.clip_result import (
    ClipResult,
    ClipScore,
    Group,
    Score,
    read_edits,
    read_scores,
)
from audiolm_compress.metrics.wer import Edits

__all__ = [
    "ClipResult",
    "ClipScore",
    "Edits",
    "Group",
    "Latency",
    "Measurements",
    "Memory",
    "Score",
    "Spread",
]


@dataclass(frozen=True)
class Spread:
    """Times in seconds over several runs: median, 5th and 95th percentile."""

    median: float
    p5: float
    p95: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread | None:
        """Of single times; None of none."""
        if not seconds:
            return None
        p5, median, p95 = np.percentile(seconds, [5, 50, 95])
        return cls(float(median), float(p5), float(p95), len(seconds))


@dataclass(frozen=True)
class Latency:
    """Times of one protocol, batch 1, greedy.

    Attributes:
        protocol: in words, what was timed.
        ttft: from the waveform to the first token, encoders and features included.
        tpot: per further token, one value a run; None if no run had a further token.
        tokens: mean number of tokens of an answer.
        parts: what ``ttft`` is made of, in order: ``features``, ``speech_encoder``, ``audio_encoder``,
            ``connector``, ``prefill`` (words around the audio, and the LLM until the first token's id is on
            the host), and ``other``, which is between these. They add up in each run; medians need not.
            Empty where transformers' ``generate`` was timed.
        real_time_factor: seconds of computing a full answer in a second of audio; None where answers are
            not full.
        energy_joules: mean of a run, idle power included; None where it is not counted, which a note of the
            measurements explains.
    """

    protocol: str
    ttft: Spread
    tpot: Spread | None
    tokens: float
    parts: Mapping[str, Spread] = field(default_factory=dict)
    real_time_factor: Spread | None = None
    energy_joules: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Latency:
        """Read the JSON form, that of ``asdict``; figures that it has not were not measured."""
        return cls(
            protocol=content["protocol"],
            ttft=Spread(**content["ttft"]),
            tpot=_spread(content["tpot"]),
            tokens=content["tokens"],
            parts={name: Spread(**times) for name, times in content.get("parts", {}).items()},
            real_time_factor=_spread(content.get("real_time_factor")),
            energy_joules=content.get("energy_joules"),
        )


@dataclass(frozen=True)
class BatchLatency:
    """Times of clips that are answered together, greedy.

    Attributes:
        size: clips in a batch.
        ttft: from the waveforms to the first token of all.
        step: per further token of all; None if no batch had one.
        clips_per_second: clips by seconds of computing their full answers.
        energy_joules: mean of a clip; None where it is not counted.
    """

    size: int
    ttft: Spread
    step: Spread | None
    clips_per_second: float
    energy_joules: float | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BatchLatency:
        """Read the JSON form, that of ``asdict``."""
        times = {"ttft": Spread(**content["ttft"]), "step": _spread(content["step"])}
        return cls(**{**content, **times})


@dataclass(frozen=True)
class Memory:
    """Peak memory in bytes.

    Attributes:
        peak: the figure that is compared, see ``method``.
        inference_peak: peak after loading, where the system can tell.
        noise_protocol_peak: peak during the upstream protocol, where the system can tell.
        method: in words, what was counted.
        kv_cache_bytes_per_token: keys and values of one token in all layers, counted in a real cache.
    """

    peak: int
    inference_peak: int | None
    noise_protocol_peak: int | None
    method: str
    kv_cache_bytes_per_token: int | None = None


@dataclass(frozen=True)
class Measurements:
    """One model, measured in a process of its own.

    Attributes:
        source: what was given to ``load_model``.
        weight_bytes: parameters and buffers as loaded; shared storage counts once.
        weight_bytes_by_part: the same by part of the model.
        memory: peak memory.
        clips_latency: on real clips.
        noise_latency: in the upstream protocol.
        scores: figures over all clips that have them, by the names of ``metrics.scores.SCORES``.
        unscored: why a score is missing that the clips could have, such as that SPICE is not installed.
        edits: of all recognition clips; None without such clips.
        groups: the same figures by task, source and length.
        counts: clips in all and per task, padded, truncated, skipped, not scored.
        skipped: (file, reason) of bad audio that was left out.
        decode: the decode settings used, by task.
        clips: answer and scores of every clip.
        environment: versions, device, threads, processor, commit, seed, and ``kernels``: name -> number of
            quantised layers that it computes.
        load_seconds: time to load the model.
        notes: everything a reader must know about the figures.
        transformers_latency: on the same real clips in transformers' own ``generate``; None if not timed.
        batches: several of the same clips answered together, for each size that was asked for.
    """

    source: str
    weight_bytes: int
    weight_bytes_by_part: Mapping[str, int]
    memory: Memory
    clips_latency: Latency
    noise_latency: Latency
    scores: Mapping[str, Score]
    unscored: Mapping[str, str]
    edits: Edits | None
    groups: tuple[Group, ...]
    counts: Mapping[str, int]
    skipped: tuple[tuple[str, str], ...]
    decode: Mapping[str, Mapping[str, Any]]
    clips: tuple[ClipResult, ...]
    environment: Mapping[str, Any]
    load_seconds: float
    notes: tuple[str, ...] = field(default=())
    transformers_latency: Latency | None = None
    batches: tuple[BatchLatency, ...] = ()

    @property
    def peak_memory_bytes(self) -> int:
        """Shorthand of ``memory.peak``."""
        return self.memory.peak

    @property
    def ttft_s(self) -> float:
        """Median time to the first token on real clips, in seconds."""
        return self.clips_latency.ttft.median

    @property
    def tpot_s(self) -> float | None:
        """Median time per further token on real clips, in seconds."""
        return None if self.clips_latency.tpot is None else self.clips_latency.tpot.median

    def score(self, name: str) -> float | None:
        """A figure by its name in ``metrics.scores.SCORES``; None if the clips have no such score."""
        found = self.scores.get(name)
        return None if found is None else found.value

    @property
    def wer(self) -> float | None:
        """Corpus-level word error rate of the recognition clips."""
        return self.score("wer")

    @property
    def cider_d(self) -> float | None:
        """Mean CIDEr-D of the caption clips."""
        return self.score("cider_d")

    @property
    def spider(self) -> float | None:
        """Mean SPIDEr of the caption clips, where SPICE is installed."""
        return self.score("spider")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the main figures stand first, under the names that a report uses."""
        figures = {
            "peak_memory_bytes": self.peak_memory_bytes,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
        }
        content = asdict(self)
        head = ("source", "weight_bytes", "weight_bytes_by_part")
        return {name: content.pop(name) for name in head} | figures | content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Measurements:
        """Read the JSON form."""
        in_transformers = content.get("transformers_latency")
        values = {
            name: value
            for name, value in content.items()
            if name not in ("peak_memory_bytes", "ttft_s", "tpot_s")
        }
        return cls(
            **values
            | {
                "memory": Memory(**values["memory"]),
                "clips_latency": Latency.from_dict(values["clips_latency"]),
                "noise_latency": Latency.from_dict(values["noise_latency"]),
                "scores": read_scores(values["scores"]),
                "edits": read_edits(values["edits"]),
                "groups": tuple(Group.from_dict(group) for group in values["groups"]),
                "skipped": tuple((path, reason) for path, reason in values["skipped"]),
                "clips": tuple(ClipResult.from_dict(clip) for clip in values["clips"]),
                "notes": tuple(values["notes"]),
                "transformers_latency": None
                if in_transformers is None
                else Latency.from_dict(in_transformers),
                "batches": tuple(BatchLatency.from_dict(batch) for batch in values.get("batches", ())),
            }
        )


def _spread(content: Mapping[str, Any] | None) -> Spread | None:
    return None if content is None else Spread(**content)
