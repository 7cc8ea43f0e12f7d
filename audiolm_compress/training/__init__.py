"""Training: one loop, its checkpoints, and what several processes and frozen encoders need around it."""

from audiolm_compress.training.checkpoint import BEST, CHECKPOINT, CURVE, TrainResult, show_losses
from audiolm_compress.training.features import FeatureCache, digest, fingerprint
from audiolm_compress.training.loop import Mean, train
from audiolm_compress.training.settings import TrainSettings, rate_at

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CURVE",
    "FeatureCache",
    "Mean",
    "TrainResult",
    "TrainSettings",
    "digest",
    "fingerprint",
    "rate_at",
    "show_losses",
    "train",
]
