"""What was measured of a model, in one line."""

from __future__ import annotations

from audiolm_compress.measurement.measurements import Measurements
from audiolm_compress.metrics.scores import SCORES


def in_a_line(found: Measurements) -> str:
    """Weights, median times on real clips, and the scores that there are."""
    parts = [f"{found.weight_bytes / 2**20:.2f} MiB", f"TTFT {1e3 * found.ttft_s:.1f} ms"]
    if found.tpot_s is not None:
        parts.append(f"TPOT {1e3 * found.tpot_s:.2f} ms")
    parts += [f"{SCORES[name].title} {score.value:.4f}" for name, score in found.scores.items()]
    return ", ".join(parts)
