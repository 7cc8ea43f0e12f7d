"""The cells of latency and throughput."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Latency, Measurements
from audiolm_compress.report.rows import Row, milliseconds


def latency_rows(baseline: Measurements, candidate: Measurements) -> list[Row]:
    """All protocols: protocol, figure, before, after; what TTFT is made of on real clips alone."""
    protocols: list[tuple[str, Latency | None, Latency | None]] = [
        ("real clips", baseline.clips_latency, candidate.clips_latency),
        ("upstream", baseline.noise_latency, candidate.noise_latency),
    ]
    if baseline.transformers_latency is not None or candidate.transformers_latency is not None:
        protocols.append(("transformers", baseline.transformers_latency, candidate.transformers_latency))
    rows: list[Row] = []
    for protocol, before, after in protocols:
        rows.append((protocol, "TTFT", spread(before, "ttft"), spread(after, "ttft")))
        if before is baseline.clips_latency:
            rows += ttft_part_rows(baseline.clips_latency, candidate.clips_latency)
        rows.append((protocol, "TPOT", spread(before, "tpot"), spread(after, "tpot")))
    return rows


def ttft_part_rows(before: Latency, after: Latency) -> list[Row]:
    """What TTFT is made of, medians: "", part, before, after."""
    cells = ttft_parts(before), ttft_parts(after)
    return [
        ("", f"- {part}", *(side.get(part, "none") for side in cells))
        for part in dict.fromkeys([*cells[0], *cells[1]])
    ]


def ttft_parts(latency: Latency) -> dict[str, str]:
    """Medians in ms of what TTFT is made of."""
    return {part.replace("_", " "): milliseconds(times.median) for part, times in latency.parts.items()}


def throughput_rows(baseline: Measurements, candidate: Measurements) -> list[Row]:
    """What is not in ms: figure, before, after; only what was measured of one of them."""
    before, after = throughput(baseline), throughput(candidate)
    return [
        (name, before.get(name, "n/a"), after.get(name, "n/a")) for name in dict.fromkeys([*before, *after])
    ]


def throughput(side: Measurements) -> dict[str, str]:
    """What was measured of these: real-time factor, energy, KV cache, batches."""
    cells = {}
    latency, cache = side.clips_latency, side.memory.kv_cache_bytes_per_token
    if (factor := latency.real_time_factor) is not None:
        cells["computing, s per s of audio"] = f"{factor.median:.3g} ({factor.p5:.3g} to {factor.p95:.3g})"
    if latency.energy_joules is not None:
        cells["energy, J per clip"] = f"{latency.energy_joules:.3g}"
    if cache is not None:
        cells["KV cache, bytes per token"] = str(cache)
    for batch in side.batches:
        step = None if batch.step is None else batch.step.median
        name = f"{batch.size} clips at once" if batch.size > 1 else "1 clip at once"
        cells[f"{name}: TTFT, ms"] = milliseconds(batch.ttft.median)
        cells[f"{name}: further step, ms"] = milliseconds(step)
        cells[f"{name}: clips per s"] = f"{batch.clips_per_second:.3g}"
    return cells


def spread(latency: Latency | None, figure: str) -> str:
    """Median and percentiles in ms."""
    if latency is None:
        return "not timed"
    times = getattr(latency, figure)
    if times is None:
        return "no further token"
    return f"{times.median * 1e3:.2f} ({times.p5 * 1e3:.2f} to {times.p95 * 1e3:.2f})"
