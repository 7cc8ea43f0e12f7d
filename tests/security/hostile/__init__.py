"""The kinds of hostile files, by who reads them: made from clean ones, small, with why they are refused."""

from . import checkpoints, weights, configs, texts, annotations, audio, reports  # noqa: F401, I001  # they register
from .kinds import KINDS

__all__ = ["KINDS"]
