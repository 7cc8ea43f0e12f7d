"""Training: one loop, its checkpoints, and what several processes and frozen encoders need around it."""

from audiolm_compress.training.features import FeatureCache, digest, fingerprint
from audiolm_compress.training.loop import (
    BEST,
    CHECKPOINT,
    CURVE,
    TrainResult,
    TrainSettings,
    rate_at,
    train,
)

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CURVE",
    "FeatureCache",
    "TrainResult",
    "TrainSettings",
    "digest",
    "fingerprint",
    "rate_at",
    "train",
]
