"""Bounds of the numbers in a model's config, far above any model and far below what a machine chokes on.

A config's numbers become loops and arrays before any weight is read. Weights themselves are bounded by
their file; these are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_DEPTH = 16
# name of the entry -> least, most. The first that matches counts.
_BOUNDS = tuple(
    (re.compile(pattern), least, most)
    for pattern, least, most in (
        (r"(^|_)(vocab_size|num_embeddings|in_features|out_features)$", 0, 2**24),
        (r"^(max_source_positions|d_model)$", 0, 2**14),  # Whisper's sinusoids are computed, not read
        (r"(^|_)max_\w*positions?(_embeddings)?$", 0, 2**24),
        (r"(^|_)layers?$", 0, 2**10),
        (r"(^|_)(heads?|experts|experts_per_tok|groups)$", 0, 2**12),
        (r"(^|_)(n_fft|hop_length|feature_size|mel_bins)$", 0, 2**13),
        (r"(^|_)(hidden_size|intermediate_size|dim|width|hidden|embd|inner)$", 0, 2**20),
        (r"(^|_)(intermediate|rank|r)$", 0, 2**20),
        (r"^(num_buckets|max_distance|conv_pos|predictor_class|chunk_length)$", 0, 2**16),
        (r"^(queries|window|stride)$", 0, 2**16),
        (r"(^|_)(embedding_dim|outliers|group_size)$", -1, 2**20),
        # An angle's base, a seed; tokenizers write "no limit" as 10**30.
        (r"theta|seed|model_max_length|^max_length$", -(2**127), 2**127),
    )
)
_ANY = 2**40


def size_problems(config: Mapping[str, Any]) -> list[str]:
    """Every entry whose number cannot be meant, as ``key.path is 10, expected at most 5``."""
    return [problem for name, value in _numbers(config, "", 0) for problem in _problem(name, value)]


def _problem(name: str, value: float) -> Iterator[str]:
    last = name.rpartition(".")[2]
    least, most = next(
        ((least, most) for pattern, least, most in _BOUNDS if pattern.search(last)), (-_ANY, _ANY)
    )
    if isinstance(value, int) and not least <= value <= most:
        shown = str(value) if abs(value) < 10**18 else f"{'-' if value < 0 else ''}a number beyond 10**18"
        yield f"{name} is {shown}, expected {least} to {most}"


def _numbers(node: Any, name: str, depth: int) -> Iterator[tuple[str, float]]:
    if depth > _DEPTH:
        return
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key), depth + 1)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _numbers(value, name, depth + 1)
    elif isinstance(node, int) and not isinstance(node, bool):
        yield name, node
