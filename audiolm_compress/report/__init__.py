"""Measurements before and after, steps and environment in; JSON, Markdown, HTML and tables out."""

from audiolm_compress.report.benchmark import Benchmark
from audiolm_compress.report.goals import Goal
from audiolm_compress.report.report import Report
from audiolm_compress.report.step import Step

__all__ = ["Benchmark", "Goal", "Report", "Step"]
